"""One rank of what is trained: the verbs around a DeepSpeed ZeRO engine.

Owns the order forward_backward -> optim_step, the idempotency of steps, the handling of
non-finite gradients, scores and export. Refuses to own Ray (cluster/), packing, objectives and
denominators. Invariants: the gradient of one optimizer batch is that of ``Loss.total`` summed
over all micro-batches and ranks, whatever the split; an update happens at most once per step
id; a non-finite gradient changes no weight at any stage.

Every verb is collective: all ranks call it in the same order, with equally many
micro-batches.

Legend: R scored tokens of one micro-batch.
"""

import math
import random
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.loss import LossBatch, Objective, Outputs
from rlpost.errors import RunFailed
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.packed_model import ModelInputs, loss_batch, score_batches
from rlpost.training.model.sequence_parallel import SequenceGroup
from rlpost.training.optimizers.adamw import AdamWConfig
from rlpost.training.optimizers.base import OptimizerConfig
from rlpost.training.optimizers.build import kind_of
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.packing.pack import one_batch
from rlpost.training.packing.units import Unit
from rlpost.training.parking import Parking
from rlpost.training.precision import resolve_dtype
from rlpost.training.schedule import lr_at
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero import deepspeed_engine as ds
from rlpost.training.zero.deepspeed_adapter import save_adapter
from rlpost.training.zero.deepspeed_adapter_steps import AdapterSteps
from rlpost.training.zero.deepspeed_checkpoint import (
    StepperProgress,
    load_state,
    take_snapshot,
    write_snapshot,
)
from rlpost.training.zero.deepspeed_gradients import LoneGradients
from rlpost.training.zero.deepspeed_loading import load_engine
from rlpost.training.zero.deepspeed_served import served_weights
from rlpost.training.zero.deepspeed_state import engine_state
from rlpost.training.zero.deepspeed_usage import Usage
from rlpost.training.zero.deepspeed_weights import save_model, weight_shapes
from rlpost.weights.publisher import ServedWeights


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One process's place in its group of ranks."""

    rank: int
    world_size: int
    master_address: str
    master_port: int


class DeepSpeedTrainer:
    """One rank's engine. The module is on its device and shared with nobody.

    Example::

        place = Rank(rank=0, world_size=1, master_address="127.0.0.1", master_port=29500)
        trainer = DeepSpeedTrainer(cfg, model=TrainedModel.policy(path, cfg), place=place, seed=0)
        tally = trainer.forward_backward(batches, objective)
        metrics = merge([tally]).metrics() | trainer.optim_step(1)
    """

    def __init__(
        self,
        cfg: TrainerConfig,
        *,
        model: TrainedModel,
        place: Rank,
        seed: int,
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        """Join the ranks, load the model and build the engine.

        Args:
            cfg: the options of what is trained.
            model: what is trained.
            place: this rank.
            seed: of the random generators; each rank adds its number.
            optimizer: None: AdamW.

        Raises:
            UserError: the model cannot be loaded or packed, or reads other tokens.
        """
        model.require_vocabulary()
        self.cfg = cfg
        self.dtype = resolve_dtype(cfg.dtype)
        self._model, self._place, self._seed = model, place, seed
        torch.set_num_threads(cfg.threads_per_rank())
        for seed_it in (random.seed, np.random.seed, torch.manual_seed):
            seed_it(seed + place.rank)
        self._device = ds.join_ranks(**vars(place))
        self._optimizer = kind_of(optimizer or AdamWConfig(), cfg)
        self._engine = load_engine(
            model, cfg, dtype=self.dtype, optimizer=self._optimizer, seed=seed
        )
        self._engine.module.group = SequenceGroup.join(
            cfg.sequence_parallel_size, timeout=ds.COLLECTIVE_TIMEOUT
        )
        self._served = served_weights(self._engine.module, model, dtype=self.dtype)
        self._gradients = LoneGradients.of(self._engine)
        self._parking = Parking(self._engine.module, self._engine.optimizer, device=self._device)
        self._usage = Usage(
            self._engine,
            model,
            dtype=self.dtype,
            device=self._device,
            sharing=cfg.sequence_parallel_size,
        )
        self._adapter = AdapterSteps(self._engine, self._optimizer, device=self._device)
        self._pending = False  # gradients wait for optim_step
        self._step_id = 0
        self._step_result: dict[str, float] = {}
        self._nonfinite_in_row = 0
        self._writing: Future[None] | None = None  # what begin_save began

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine, awake: one that sleeps is brought back to memory first."""
        self._parking.wake()
        return self._engine

    @property
    def module(self) -> Any:
        """The ``PackedModel`` itself; under ZeRO-3 its weights are in pieces."""
        return self.engine.module

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for _, _, shape in weight_shapes(self.module))

    def sleep(self) -> int:
        """Move weights and optimizer out of memory until the next verb; returns the bytes."""
        assert not self._pending, "gradients wait for optim_step"
        ds.release_gathered(self.engine)
        if self._gradients is not None:
            self._gradients.release()
        return self._parking.park()

    def forward_backward(
        self, batches: Sequence[MicroBatch], objective: Objective, *, temperature: float = 1.0
    ) -> Tally:
        """Accumulate the gradient of one optimizer batch; this rank's share of it.

        Args:
            batches: this rank's micro-batches, as many as on every other rank; neighbours that
                divide them (``cfg.sequence_parallel_size``) have the same.
            objective: gives the loss; the batches carry its columns.
            temperature: divides the logits, as it did in the sampler.

        Returns:
            This rank's sums (``algorithms.diagnostics.merge`` combines ranks): the objective's
            diagnostics over what counts, and ``<actor or critic>/loss``. Ranks that share
            micro-batches return the same: one of them is counted.
        """
        assert not self._pending, "optim_step must consume the gradients first"
        assert batches, "an optimizer batch without micro-batches: skip the step instead"
        _require_columns(batches, objective)
        self._check_equal(len(batches))
        tally = Tally()
        engine = self.engine  # waking up is not counted as work
        self._adapter.before_update(
            batches,
            update=self._step_id + 1,
            loss=lambda batch: self._plain_loss(batch, objective, temperature),
        )
        self._pending = True
        with self._usage.busy(batches):
            for i, batch in enumerate(batches):
                # Announced before each pass: stages 1 and 2 otherwise drop all but the last.
                self._set_boundary(i == len(batches) - 1)
                inputs = ModelInputs.of(batch, device=self._device, learning=True)
                outputs = Outputs.of(engine(inputs, temperature=temperature))
                loss = self._loss(outputs, loss_batch(batch, device=self._device), objective, tally)
                if i == 0:
                    loss = self._adapter.with_term(loss)
                # The engine averages over ranks; the weights hold the global denominator.
                engine.backward(loss * self._place.world_size)
            return tally.cpu()

    def _loss(
        self, outputs: Outputs, batch: LossBatch, objective: Objective, tally: Tally
    ) -> Tensor:
        result = objective(outputs, batch)
        loss = result.total(batch)
        tally.add(result.diagnostics_R, counted_R=batch.counted_R)
        tally.add(result.diagnostics_U, counted_R=batch.counted_U)
        tally.add_total(f"{self._model.labels.metrics}/loss", loss)
        return loss

    def _plain_loss(self, batch: MicroBatch, objective: Objective, temperature: float) -> Tensor:
        """Return a micro-batch's loss by a pass beside the engine, which learns nothing of it."""
        inputs = ModelInputs.of(batch, device=self._device, learning=True)
        outputs = Outputs.of(self.module(inputs, temperature=temperature))
        columns = loss_batch(batch, device=self._device)
        return objective(outputs, columns).total(columns)

    def _set_boundary(self, is_last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(is_last)

    def optim_step(self, step_id: int) -> dict[str, float]:
        """Apply the accumulated gradient as step ``step_id`` (1-based; gaps are allowed).

        Returns, under the prefix of what is trained, ``lr``, ``grad_norm`` (before clipping;
        absent when not finite) and ``skipped_update`` (0 or 1), the same on every rank; memory
        in GB; and ``perf/mfu/..``, of this rank, where the peak of its device is known. A
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
        with self._usage.busy():
            grad_norm, applied = ds.update(self.engine)
        of_adapter = self._adapter.after_update(step_id, applied=applied)
        self._pending = False
        self._step_id = step_id
        self._nonfinite_in_row = 0 if applied else self._nonfinite_in_row + 1
        prefix = self._model.labels.metrics
        self._step_result = {f"{prefix}/lr": lr, f"{prefix}/skipped_update": float(not applied)}
        if math.isfinite(grad_norm):
            self._step_result[f"{prefix}/grad_norm"] = grad_norm
        if (largest := ds.largest_lr(self.engine)) != lr:
            self._step_result[f"{prefix}/largest_lr"] = largest
        self._step_result |= of_adapter | self._usage.metrics()
        if self._nonfinite_in_row >= self.cfg.stop_after_nonfinite:
            raise RunFailed(
                f"the gradient was not finite in {self._nonfinite_in_row} steps in a row, the "
                f"last being step {step_id}; no weight was changed by them. Lower "
                f"{self._model.labels.options}.lr, or resume from an earlier checkpoint"
            )
        return self._step_result

    def score(
        self, batches: Sequence[MicroBatch], temperature: float = 1.0, *, adapter: bool = True
    ) -> list[np.ndarray]:
        """Log-probs or values (float32, (R,)) of every micro-batch's scored tokens.

        Without ``adapter`` they are those of the base alone.
        """
        self._check_equal(len(batches))
        self.module.train(self.module.adapter is None)  # an adapter may have drop-out
        try:
            with self._adapter.scoring(adapter=adapter):
                return score_batches(
                    self.engine, batches, device=self._device, temperature=temperature
                )
        finally:
            self.module.train()

    @torch.no_grad()
    def measure(self, batches: Sequence[MicroBatch], objective: Objective) -> Tally:
        """Evaluate an objective on data that is not learned from; this rank's sums."""
        _require_columns(batches, objective)
        self._check_equal(len(batches))
        tally = Tally()
        self.module.eval()
        try:
            for batch in batches:
                outputs = Outputs.of(self.engine(ModelInputs.of(batch, device=self._device)))
                self._loss(outputs, loss_batch(batch, device=self._device), objective, tally)
        finally:
            self.module.train()
        return tally.cpu()

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score each token after the first, per sequence, at temperature 1.

        Every rank gets the same sequences and returns the same numbers.
        """
        units = [Unit.sharing(ids[:1], {number: ids[1:]}) for number, ids in enumerate(sequences)]
        (scores_R,) = self.score([one_batch(units)])
        cuts = np.cumsum([len(ids) - 1 for ids in sequences])[:-1]
        return [part.tolist() for part in np.split(scores_R, cuts)]

    @property
    def served(self) -> ServedWeights:
        """What generators get, of weights that are awake."""
        self._parking.wake()
        return self._served

    def export(self, directory: Path) -> None:
        """Write a Hugging Face model directory with tokenizer (rank 0 writes).

        A policy is a causal language model, a critic a sequence classifier with one label. Of a
        model with an adapter it is the adapter's directory, which names the base.

        Raises:
            UserError: transformers has no such class for this architecture.
        """
        write = self._place.rank == 0
        if self.module.adapter is not None:
            save_adapter(self.module, self._model, directory, dtype=self.dtype, write=write)
        else:
            save_model(self.module, self._model, directory, dtype=self.dtype, write=write)
        dist.barrier()

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
            engine_state(self.engine, self._optimizer),
            rank=self._place.rank,
            num_ranks=self._place.world_size,
            progress=progress,
            adapter=self._identity,
            companion=self._adapter.state_dict(),
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
            engine_state(self.engine, self._optimizer),
            directory,
            rank=self._place.rank,
            num_ranks=self._place.world_size,
            seed=self._seed,
            adapter=self._identity,
        )
        self._adapter.load(directory)
        self._step_id = progress.step_id
        self._step_result = progress.step_result
        self._nonfinite_in_row = progress.nonfinite_in_row

    @property
    def _identity(self) -> dict[str, Any] | None:
        """What a state is worthless without; None: every weight is in it."""
        return None if self._model.adapter is None else self._model.adapter.identity()

    def close(self) -> None:
        """Leave the ranks; the process may build another trainer afterwards."""
        ds.leave_ranks(self._engine)

    def _check_equal(self, count: int) -> None:
        """Unequal counts would abort the process inside a collective, without a message."""
        counts = torch.tensor([count, -count], device=self._device)
        dist.all_reduce(counts, op=dist.ReduceOp.MAX)
        assert counts[0] == -counts[1], f"ranks have {-counts[1]} to {counts[0]} micro-batches"


def _require_columns(batches: Sequence[MicroBatch], objective: Objective) -> None:
    for batch in batches:
        missing = set(objective.columns) - batch.columns.keys()
        assert not missing, f"the batch carries no {', '.join(sorted(missing))}"
