"""When an adapter's capacity is measured in a run, and on which of its rows.

Owns both. Refuses to own the measurement (training/adapters/gradient_energy.py). Invariant: ranks
need not agree, because nothing here is collective: whole weights are there between two passes at
ZeRO stages 0 to 2, and other stages are refused (training/adapters/check.py).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlpost.training.adapters.gradient_energy import measure_capacity
from rlpost.training.packing.batch import MicroBatch

LossOf = Callable[[MicroBatch], Tensor]  # by a forward pass that learns


class CapacityMeter:
    """Measures before every ``every``-th update, with one micro-batch of rank 0."""

    def __init__(self, module: Any, *, every: int, device: torch.device) -> None:
        self._module, self._every, self._device = module, every, device

    @classmethod
    def of(cls, module: Any, *, rank: int, device: torch.device) -> "CapacityMeter | None":
        """Return one of a ``PackedModel``, if it has an adapter whose options ask for it."""
        live = module.adapter
        every = 0 if live is None else getattr(live.plan.config, "diagnose_every", 0)
        return cls(module, every=every, device=device) if every and rank == 0 else None

    def measure(
        self, batches: Sequence[MicroBatch], *, update: int, loss: LossOf
    ) -> dict[str, float]:
        """Return metrics, or none when it is not time.

        Args:
            batches: those of the update; the one with most sequences is taken.
            update: whose gradient it is, 1-based.
            loss: of one of them.
        """
        rows = [batch for batch in batches if not batch.is_dummy]
        if update % self._every or not rows:
            return {}
        chosen = max(rows, key=lambda batch: len(batch.blocks))
        return measure_capacity(
            self._module, loss=lambda: loss(chosen), in_first_T=self._in_first_T(chosen)
        )

    def _in_first_T(self, batch: MicroBatch) -> Tensor:
        """Mark the tokens of every other block: blocks do not see each other."""
        marks_T = torch.zeros(batch.num_tokens, dtype=torch.bool, device=self._device)
        for block in batch.blocks[::2]:
            marks_T[block.prompt[0] : block.responses[-1][1]] = True
        return marks_T
