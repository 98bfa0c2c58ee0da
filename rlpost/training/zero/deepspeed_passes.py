"""The passes of one rank over its micro-batches, forward and backward.

Owns how a micro-batch becomes a gradient, scores or measurements. Refuses to own updates
(deepspeed_updates.py), objectives and denominators. Invariant: the gradient of one optimizer batch
is that of ``Loss.total`` summed over all micro-batches and ranks, whatever the split.

Every pass is collective: all ranks make equally many, in one order.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.loss import LossBatch, Objective, Outputs
from rlpost.training.model.packed_model import ModelInputs, loss_batch, score_batches
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.zero.deepspeed_adapter_steps import AdapterSteps
from rlpost.training.zero.deepspeed_usage import Usage


class Passes:
    """Of an engine that is awake.

    Args:
        engine: DeepSpeed's, around a ``PackedModel``.
        adapter: what the module's adapter does around them.
        usage: counts the work.
        device: that the engine computes on.
        name: of what is trained, before the name of its loss.
    """

    def __init__(
        self,
        engine: Any,
        *,
        adapter: AdapterSteps,
        usage: Usage,
        device: torch.device,
        name: str,
    ) -> None:
        self._engine, self._adapter, self._usage = engine, adapter, usage
        self._device, self._name = device, name

    def learn(
        self,
        batches: Sequence[MicroBatch],
        objective: Objective,
        *,
        temperature: float,
    ) -> Tally:
        """Add up the gradient of one optimizer batch; returns this rank's sums."""
        tally = Tally()
        with self._usage.busy(batches):
            for i, batch in enumerate(batches):
                # Announced before each pass: stages 1 and 2 otherwise drop all but the last.
                self._engine.set_gradient_accumulation_boundary(i == len(batches) - 1)
                inputs = ModelInputs.of(batch, device=self._device, learning=True)
                outputs = Outputs.of(self._engine(inputs, temperature=temperature))
                loss = self._loss(outputs, loss_batch(batch, device=self._device), objective, tally)
                if i == 0:
                    loss = self._adapter.with_term(loss)
                # The engine averages over ranks; the weights hold the global denominator.
                self._engine.backward(loss * dist.get_world_size())
            return tally.cpu()

    def score(
        self, batches: Sequence[MicroBatch], *, temperature: float, adapter: bool
    ) -> list[np.ndarray]:
        """Return what the head says first of every scored token, float32, (R,) a micro-batch."""
        self.check_equal(len(batches))
        module = self._engine.module
        module.train(module.adapter is None)  # an adapter may have drop-out
        try:
            with self._adapter.scoring(adapter=adapter):
                return score_batches(
                    self._engine, batches, device=self._device, temperature=temperature
                )
        finally:
            module.train()

    @torch.no_grad()
    def measure(self, batches: Sequence[MicroBatch], objective: Objective) -> Tally:
        """Evaluate an objective without learning; returns this rank's sums."""
        require_columns(batches, objective)
        self.check_equal(len(batches))
        tally = Tally()
        self._engine.module.eval()
        try:
            for batch in batches:
                outputs = Outputs.of(self._engine(ModelInputs.of(batch, device=self._device)))
                self._loss(outputs, loss_batch(batch, device=self._device), objective, tally)
        finally:
            self._engine.module.train()
        return tally.cpu()

    def plain_loss(self, batch: MicroBatch, objective: Objective, temperature: float) -> Tensor:
        """Return a micro-batch's loss by a pass beside the engine, which learns nothing of it."""
        inputs = ModelInputs.of(batch, device=self._device, learning=True)
        outputs = Outputs.of(self._engine.module(inputs, temperature=temperature))
        columns = loss_batch(batch, device=self._device)
        return objective(outputs, columns).total(columns)

    def check_equal(self, count: int) -> None:
        """Unequal counts would abort the process inside a collective, without a message."""
        counts = torch.tensor([count, -count], device=self._device)
        dist.all_reduce(counts, op=dist.ReduceOp.MAX)
        assert counts[0] == -counts[1], f"ranks have {-counts[1]} to {counts[0]} micro-batches"

    def _loss(
        self, outputs: Outputs, batch: LossBatch, objective: Objective, tally: Tally
    ) -> Tensor:
        result = objective(outputs, batch)
        loss = result.total(batch)
        tally.add(result.diagnostics_R, counted_R=batch.counted_R)
        tally.add(result.diagnostics_U, counted_R=batch.counted_U)
        tally.add_total(f"{self._name}/loss", loss)
        return loss


def require_columns(batches: Sequence[MicroBatch], objective: Objective) -> None:
    """Check that the batches carry what an objective reads."""
    for batch in batches:
        missing = set(objective.columns) - batch.columns.keys()
        assert not missing, f"the batch carries no {', '.join(sorted(missing))}"
