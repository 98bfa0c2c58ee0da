"""What every trained role shares: ranks, engine, accumulation, steps and resumable state.

Owns the order accumulate -> optim_step, the idempotency of steps and the handling of
non-finite gradients. Refuses to own the loss and what the module computes
(deepspeed_trainer.py, deepspeed_critic.py). Invariants: an update happens at most once per
step id; a non-finite gradient changes no weight at any stage.

Every verb is collective: all ranks call it in the same order, with equally many
micro-batches.
"""

import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlpost.algorithms.diagnostics import Tally
from rlpost.errors import RunFailed
from rlpost.training import deepspeed_engine as ds
from rlpost.training.batch import TokenBatch
from rlpost.training.deepspeed_checkpoint import (
    StepperProgress,
    load_state,
    take_snapshot,
    write_snapshot,
)
from rlpost.training.deepspeed_state import engine_state
from rlpost.training.parking import Parking
from rlpost.training.precision import on_device, resolve_dtype
from rlpost.training.schedule import lr_at
from rlpost.training.settings import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class Labels:
    """How metrics and errors call what is trained."""

    metrics: str  # prefix: ``actor`` or ``critic``
    memory: str  # prefix below ``perf/``
    options: str  # where its learning rate is configured


POLICY = Labels(metrics="actor", memory="", options="trainer")
CRITIC = Labels(metrics="critic", memory="critic_", options="critic")


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One process's place in its group of ranks."""

    rank: int
    world_size: int
    master_address: str
    master_port: int


class DeepSpeedStepper:
    """One rank's engine. The module is on its device and shared with nobody.

    Example::

        stepper = DeepSpeedStepper(cfg, role=POLICY, place=place, seed=0, load=load)
        tally = stepper.accumulate(batches, loss_of=loss_of)
        metrics = stepper.optim_step(1)
    """

    def __init__(
        self,
        cfg: TrainerConfig,
        *,
        role: Labels,
        place: Rank,
        seed: int,
        load: Callable[[torch.dtype], nn.Module],
    ) -> None:
        """Join the ranks, then build the engine around what ``load`` returns.

        Args:
            cfg: the role's options.
            role: names in metrics and errors.
            place: this rank.
            seed: of the random generators; each rank adds its number.
            load: dtype -> module with a ``model`` that has a transformers config; on the CPU.
        """
        self.cfg = cfg
        self.dtype = resolve_dtype(cfg.dtype)
        self.rank = place.rank
        self._role, self._world_size, self._seed = role, place.world_size, seed
        torch.set_num_threads(cfg.threads_per_rank())
        for seed_it in (random.seed, np.random.seed, torch.manual_seed):
            seed_it(seed + place.rank)
        self.device = ds.join_ranks(
            rank=place.rank,
            world_size=place.world_size,
            master_address=place.master_address,
            master_port=place.master_port,
        )
        self._engine = ds.build_engine(load(self.dtype), cfg, dtype=self.dtype)
        self._parking = Parking(self._engine.module, self._engine.optimizer, device=self.device)
        self._pending = False  # gradients wait for optim_step
        self._step_id = 0
        self._step_result: dict[str, float] = {}
        self._nonfinite_in_row = 0
        self._writing: Future[None] | None = None  # what begin_save began

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine; one that rests is brought back to memory."""
        self._parking.wake()
        return self._engine

    def sleep(self) -> int:
        """Move weights and optimizer out of memory until the next use; returns the bytes.

        Collective, like every verb.
        """
        assert not self._pending, "gradients wait for optim_step"
        ds.release_gathered(self.engine)
        return self._parking.park()

    @property
    def module(self) -> Any:
        """The trained module itself; under ZeRO-3 its weights are in pieces."""
        return self.engine.module

    def to_device(self, array: np.ndarray) -> Tensor:
        return on_device(array, self.device)

    def accumulate(
        self, batches: Sequence[TokenBatch], *, loss_of: Callable[[TokenBatch, Tally], Tensor]
    ) -> Tally:
        """Accumulate the gradient of one optimizer batch; returns this rank's sums.

        Args:
            batches: this rank's micro-batches, as many as on every other rank.
            loss_of: adds a micro-batch's measurements to the tally and returns its part of
                the loss, already divided by the denominator of the whole optimizer batch.
        """
        assert not self._pending, "optim_step must consume the gradients first"
        assert batches, "an optimizer batch without micro-batches: skip the step instead"
        self.check_equal(len(batches), what="micro-batches")
        tally = Tally()
        self._pending = True
        for i, batch in enumerate(batches):
            # Announced before each pass: stages 1 and 2 otherwise drop all but the last.
            self._set_boundary(i == len(batches) - 1)
            loss = loss_of(batch, tally)
            # The engine averages over ranks; the weights already hold the global denominator.
            self.engine.backward(loss * self._world_size)
        return tally.cpu()

    def _set_boundary(self, is_last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(is_last)

    def optim_step(self, step_id: int) -> dict[str, float]:
        """Apply the accumulated gradient as step ``step_id`` (1-based; gaps are allowed).

        Returns the same on every rank, under the role's prefix: ``lr``, ``grad_norm`` (before
        clipping; absent when not finite), ``skipped_update`` (0 or 1); and memory in GB. A
        repeated id returns the recorded result and changes nothing.

        Raises:
            RunFailed: ``stop_after_nonfinite`` updates in a row had non-finite gradients.
        """
        assert step_id >= 1 and step_id >= self._step_id, (
            f"step {step_id} asked for after step {self._step_id}"
        )
        if step_id == self._step_id:
            assert not self._pending, f"step {step_id} is done, but new gradients are waiting"
            return self._step_result
        assert self._pending, f"step {step_id}: forward_backward has not run"
        lr = lr_at(step_id, self.cfg)
        ds.set_lr(self.engine, lr)
        grad_norm, applied = self._apply()
        self._pending = False
        self._step_id = step_id
        self._nonfinite_in_row = 0 if applied else self._nonfinite_in_row + 1
        prefix = self._role.metrics
        self._step_result = {f"{prefix}/lr": lr, f"{prefix}/skipped_update": float(not applied)}
        if math.isfinite(grad_norm):
            self._step_result[f"{prefix}/grad_norm"] = grad_norm
        self._step_result |= self._memory()
        if self._nonfinite_in_row >= self.cfg.stop_after_nonfinite:
            raise RunFailed(
                f"the gradient was not finite in {self._nonfinite_in_row} steps in a row, the "
                f"last being step {step_id}; no weight was changed by them. Lower "
                f"{self._role.options}.lr, or resume from an earlier checkpoint"
            )
        return self._step_result

    def _apply(self) -> tuple[float, bool]:
        """Update unless the gradient is not finite; returns its norm and whether it updated."""
        if not ds.is_plain_optimizer(self.engine):
            self.engine.step()
            return float(self.engine.get_global_grad_norm()), self.engine.was_step_applied()
        # Stage 0 in float32 would apply NaN silently.
        grad_norm = ds.plain_grad_norm(self.engine)
        if math.isfinite(grad_norm):
            self.engine.step()
            return grad_norm, True
        self.engine.optimizer.zero_grad()
        self.engine.zero_grad()
        return grad_norm, False

    def _memory(self) -> dict[str, float]:
        name = self._role.memory
        result = {f"perf/{name or 'trainer_'}memory_gb": psutil.Process().memory_info().rss / 1e9}
        if self.device.type == "cuda":
            peak_gb = torch.cuda.max_memory_allocated() / 1e9
            result[f"perf/{name}max_memory_allocated_gb"] = peak_gb
        return result

    def begin_save(self, directory: Path) -> None:
        """Copy the state between two steps; returns while a thread still writes it.

        The engine may go on. ``directory`` is complete when ``finish_save`` has returned on
        every rank.
        """
        assert not self._pending, "gradients are not saved: call optim_step first"
        assert self._writing is None, "finish_save must end the last save first"
        progress = StepperProgress(
            step_id=self._step_id,
            step_result=self._step_result,
            nonfinite_in_row=self._nonfinite_in_row,
        )
        snapshot = take_snapshot(
            engine_state(self.engine),
            rank=self.rank,
            num_ranks=self._world_size,
            progress=progress,
        )
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing = thread.submit(write_snapshot, snapshot, directory)
        thread.shutdown(wait=False)  # takes no other work and ends by itself

    def finish_save(self) -> None:
        """Wait until this rank's files of ``begin_save`` are written; not collective.

        Raises:
            CheckpointWriteError: the disk refused; the engine is as good as before.
        """
        assert self._writing is not None, "begin_save comes first"
        writing, self._writing = self._writing, None
        writing.result()

    def load(self, directory: Path) -> None:
        """Restore what was saved, by however many ranks at whatever ZeRO stage.

        Raises:
            DataError: files are missing or damaged.
            UserError: it is the state of another model.
        """
        assert not self._pending, "the gradients that wait would join the loaded state"
        progress = load_state(
            engine_state(self.engine),
            directory,
            rank=self.rank,
            num_ranks=self._world_size,
            seed=self._seed,
        )
        self._step_id = progress.step_id
        self._step_result = progress.step_result
        self._nonfinite_in_row = progress.nonfinite_in_row

    def close(self) -> None:
        """Leave the ranks; the process may build another stepper afterwards."""
        ds.leave_ranks(self._engine)

    def check_equal(self, count: int, *, what: str) -> None:
        """Unequal counts would abort the process inside a collective, without a message."""
        counts = torch.tensor([count, -count], device=self.device)
        dist.all_reduce(counts, op=dist.ReduceOp.MAX)
        assert counts[0] == -counts[1], f"ranks have {-counts[1]} to {counts[0]} {what}"
