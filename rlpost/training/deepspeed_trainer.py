"""One rank of the policy trainer: the verbs around a DeepSpeed ZeRO engine.

Owns the order forward_backward -> optim_step, the idempotency of steps and the handling of
non-finite gradients. Refuses to own Ray (cluster/), packing, the loss and denominators.
Invariants: the gradient of one optimizer batch is that of ``sum(loss_weight_R * value_R)``
over all micro-batches and ranks, whatever the split; an update happens at most once per
step id; a non-finite gradient changes no weight at any stage.

Every verb is collective: all ranks call it in the same order, with equally many
micro-batches.

Legend: R response tokens of one micro-batch.
"""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.losses import PolicyLossInputs
from rlpost.algorithms.mismatch import mismatch
from rlpost.errors import RunFailed
from rlpost.training import deepspeed_engine as ds
from rlpost.training.batch import TokenBatch
from rlpost.training.deepspeed_checkpoint import load_state, save_state
from rlpost.training.deepspeed_weights import Shapes, iter_weights, save_pretrained, weight_shapes
from rlpost.training.objective import Objective
from rlpost.training.policy import PolicyInputs, load_policy
from rlpost.training.precision import resolve_dtype
from rlpost.training.schedule import lr_at
from rlpost.training.scoring import scoring_batch
from rlpost.training.settings import TrainerConfig


class DeepSpeedTrainer:
    """Example::

    trainer = DeepSpeedTrainer(cfg, model_path=path, rank=0, world_size=1,
                               master_address="127.0.0.1", master_port=29500, seed=0)
    tally = trainer.forward_backward(batches, objective=objective, temperature=1.0)
    metrics = merge([tally]).metrics() | trainer.optim_step(1)
    """

    def __init__(
        self,
        cfg: TrainerConfig,
        *,
        model_path: str,
        rank: int,
        world_size: int,
        master_address: str,
        master_port: int,
        seed: int,
    ) -> None:
        """Join the ranks, load the model and build the engine.

        Raises:
            UserError: the model cannot be loaded or its architecture cannot be packed.
        """
        self.cfg = cfg
        self.dtype = resolve_dtype(cfg.dtype)
        self._model_path = model_path
        self._rank, self._world_size = rank, world_size
        torch.set_num_threads(cfg.threads_per_rank())
        for seed_it in (random.seed, np.random.seed, torch.manual_seed):
            seed_it(seed + rank)
        self._device = ds.join_ranks(
            rank=rank,
            world_size=world_size,
            master_address=master_address,
            master_port=master_port,
        )
        policy = load_policy(
            model_path,
            dtype=self.dtype,
            logprob_chunk=cfg.logprob_chunk,
            gradient_checkpointing=cfg.gradient_checkpointing,
        )
        self._shapes = weight_shapes(policy.model)
        self._engine = ds.build_engine(policy, cfg, dtype=self.dtype)
        self._pending = False  # gradients wait for optim_step
        self._step_id = 0
        self._step_result: dict[str, float] = {}
        self._nonfinite_in_row = 0

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for _, _, shape in self._shapes)

    def weight_shapes(self) -> Shapes:
        """Name, dtype and shape of every tensor ``iter_weights`` yields, in its order."""
        return self._shapes

    def forward_backward(
        self, batches: Sequence[TokenBatch], *, objective: Objective, temperature: float
    ) -> Tally:
        """Accumulate the gradient of one optimizer batch; this rank's share of it.

        Args:
            batches: this rank's micro-batches, as many as on every other rank.
            objective: gives the loss of each token.
            temperature: of the sampler; divides the logits.

        Returns:
            This rank's sums (``algorithms.diagnostics.merge`` combines ranks): the loss's
            diagnostics over tokens of positive weight, ``actor/loss``, the mismatch with the
            rollout log-probs, ``perf/packed_tokens`` and ``perf/trained_tokens``.
        """
        assert not self._pending, "optim_step must consume the gradients first"
        assert batches, "an optimizer batch without micro-batches: skip the step instead"
        self._check_equal(len(batches), what="micro-batches")
        tally = Tally()
        self._pending = True
        for i, batch in enumerate(batches):
            # Announced before each pass: stages 1 and 2 otherwise drop all but the last.
            self._set_boundary(i == len(batches) - 1)
            loss = self._loss(batch, objective, temperature, tally)
            # The engine averages over ranks; the weights already hold the global denominator.
            self._engine.backward(loss * self._world_size)
        return tally.cpu()

    def _set_boundary(self, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)

    def _loss(
        self, batch: TokenBatch, objective: Objective, temperature: float, tally: Tally
    ) -> Tensor:
        policy_logprobs_R, entropy_R = self._engine(
            PolicyInputs.of(batch, device=self._device),
            temperature=temperature,
            entropy_gradient=objective.entropy_coefficient != 0,
        )
        rollout_logprobs_R = self._to_device(batch.rollout_logprobs_R)
        ref = batch.ref_logprobs_R
        weight_R = self._to_device(batch.loss_weight_R)
        counted_R = weight_R > 0
        # A masked token may hold anything, and inf * 0 is nan, forwards as well as backwards.
        advantages_R = self._to_device(batch.advantages_R).masked_fill(~counted_R, 0.0)
        result = objective.per_token(
            PolicyLossInputs(
                policy_logprobs_R=policy_logprobs_R,
                anchor_logprobs_R=rollout_logprobs_R,
                advantages_R=advantages_R,
                sequence_R=self._to_device(batch.sequence_R),
                entropy_R=entropy_R,
            ),
            ref_logprobs_R=None if ref is None else self._to_device(ref),
        )
        # The sum stays connected to the graph even when every weight is 0: collectives of all
        # ranks must match.
        loss = (weight_R * result.values_R.masked_fill(~counted_R, 0.0)).sum()
        tally.add(result.diagnostics, counted_R=counted_R)
        tally.add(
            mismatch(policy_logprobs_R, rollout_logprobs_R=rollout_logprobs_R), counted_R=counted_R
        )
        tally.add_total("actor/loss", loss)
        if not batch.is_dummy:
            tally.add_total("perf/packed_tokens", torch.tensor(batch.num_tokens))
            tally.add_total("perf/trained_tokens", counted_R.sum())
        return loss

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self._device)

    def optim_step(self, step_id: int) -> dict[str, float]:
        """Apply the accumulated gradient as step ``step_id`` (1-based; gaps are allowed).

        Returns the same on every rank: ``actor/lr``, ``actor/grad_norm`` (before clipping;
        absent when not finite), ``actor/skipped_update`` (0 or 1), memory in GB. A repeated
        id returns the recorded result and changes nothing.

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
        ds.set_lr(self._engine, lr)
        grad_norm, applied = self._apply()
        self._pending = False
        self._step_id = step_id
        self._nonfinite_in_row = 0 if applied else self._nonfinite_in_row + 1
        self._step_result = {"actor/lr": lr, "actor/skipped_update": float(not applied)}
        if math.isfinite(grad_norm):
            self._step_result["actor/grad_norm"] = grad_norm
        self._step_result |= self._memory()
        if self._nonfinite_in_row >= self.cfg.stop_after_nonfinite:
            raise RunFailed(
                f"the gradient was not finite in {self._nonfinite_in_row} steps in a row, the "
                f"last being step {step_id}; no weight was changed by them. Lower trainer.lr, "
                "or resume from an earlier checkpoint"
            )
        return self._step_result

    def _apply(self) -> tuple[float, bool]:
        """Update unless the gradient is not finite; returns its norm and whether it updated."""
        if not ds.is_plain_optimizer(self._engine):
            self._engine.step()
            return float(self._engine.get_global_grad_norm()), self._engine.was_step_applied()
        # Stage 0 in float32 would apply NaN silently.
        grad_norm = ds.plain_grad_norm(self._engine)
        if math.isfinite(grad_norm):
            self._engine.step()
            return grad_norm, True
        self._engine.optimizer.zero_grad()
        self._engine.zero_grad()
        return grad_norm, False

    def _memory(self) -> dict[str, float]:
        result = {"perf/trainer_memory_gb": psutil.Process().memory_info().rss / 1e9}
        if self._device.type == "cuda":
            result["perf/max_memory_allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return result

    @torch.no_grad()
    def logprobs(self, batches: Sequence[TokenBatch], temperature: float) -> list[np.ndarray]:
        """Log-probs (nats, float32, (R,)) of every micro-batch's response tokens."""
        self._check_equal(len(batches), what="micro-batches")
        results = []
        for batch in batches:
            inputs = PolicyInputs.of(batch, device=self._device)
            logprobs_R, _ = self._engine(inputs, temperature=temperature)
            results.append(logprobs_R.cpu().numpy())
        return results

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob at temperature 1 of each token after the first, per sequence.

        Every rank gets the same sequences and returns the same numbers.
        """
        batch = scoring_batch([(ids[:1], [ids[1:]]) for ids in sequences])
        (logprobs_R,) = self.logprobs([batch], 1.0)
        cuts = np.cumsum([len(ids) - 1 for ids in sequences])[:-1]
        return [part.tolist() for part in np.split(logprobs_R, cuts)]

    def iter_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full weights under Hugging Face names; see ``deepspeed_weights.iter_weights``."""
        return iter_weights(self._engine.module.model)

    def save(self, directory: Path) -> None:
        """Write resumable state; not while gradients wait for their step."""
        assert not self._pending, "gradients are not saved: call optim_step first"
        progress = {
            "step_id": self._step_id,
            "step_result": self._step_result,
            "nonfinite_in_row": self._nonfinite_in_row,
        }
        save_state(
            self._engine, directory, rank=self._rank, shape=self._state_shape(), progress=progress
        )
        dist.barrier()

    def load(self, directory: Path) -> None:
        """Restore what ``save`` wrote.

        Raises:
            DataError: files are missing.
            UserError: it was written with other ranks, stage or dtype.
        """
        progress = load_state(self._engine, directory, rank=self._rank, shape=self._state_shape())
        self._step_id = progress["step_id"]
        self._step_result = progress["step_result"]
        self._nonfinite_in_row = progress["nonfinite_in_row"]

    def _state_shape(self) -> dict[str, Any]:
        return {
            "trainer.num_ranks": self._world_size,
            "trainer.zero_stage": self.cfg.zero_stage,
            "trainer.dtype": str(self.dtype).removeprefix("torch."),
        }

    def save_hf(self, directory: Path) -> None:
        """Write the weights in ``save_pretrained`` layout with tokenizer (rank 0 writes)."""
        save_pretrained(
            self._engine.module.model,
            directory,
            tokenizer_path=self._model_path,
            write=self._rank == 0,
        )
        dist.barrier()

    def close(self) -> None:
        """Leave the ranks; the process may build another trainer afterwards."""
        ds.leave_ranks(self._engine)

    def _check_equal(self, count: int, *, what: str) -> None:
        """Unequal counts would abort the process inside a collective, without a message."""
        counts = torch.tensor([count, -count], device=self._device)
        dist.all_reduce(counts, op=dist.ReduceOp.MAX)
        assert counts[0] == -counts[1], f"ranks have {-counts[1]} to {counts[0]} {what}"
