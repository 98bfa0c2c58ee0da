"""The contract between a trainer and what it minimises.

Owns the carriers and the protocol. Refuses to own any objective, masks, denominators
(reduce.py) and the forward pass (training/). Invariant: an objective returns one value per
token or per unit and never averages over the batch, so the gradient cannot depend on how
units were packed: what the trainer adds up is

    sum(weight_R * values_R) + sum(weight_U * values_U)

and both weights hold denominators of the whole optimizer batch.

Legend: R scored tokens of one micro-batch, I items, U units; an item is never split.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from rlpost.algorithms.diagnostics import Diagnostics


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the model's head says; float32, with gradients.

    ``scores_R`` are log-probs in nats (a policy) or values (a critic). With log-probs come
    ``entropy_R`` and ``is_top_R``, bool: whether the policy finds no token more likely. Beside a
    teacher come ``divergence_R`` and ``agrees_R``, bool: whether both find the same token most
    likely.
    """

    scores_R: Tensor
    entropy_R: Tensor | None = None
    is_top_R: Tensor | None = None
    divergence_R: Tensor | None = None
    agrees_R: Tensor | None = None

    @classmethod
    def of(cls, answer: tuple[Tensor, ...]) -> "Outputs":
        """Name what a head returned: the scores, and what comes with them."""
        return cls(**dict(zip((each.name for each in fields(cls)), answer, strict=False)))


@dataclass(frozen=True, kw_only=True)
class LossBatch:
    """What an objective may look at beside the outputs: the columns of a micro-batch.

    Masked entries of a column may hold anything, and inf * 0 is nan: ``masked`` makes them 0.
    """

    item_R: Tensor  # int64, 0 to num_items - 1
    unit_I: Tensor  # int64, 0 to num_units - 1
    num_items: int
    num_units: int
    columns: Mapping[str, Tensor]

    @cached_property
    def counted_R(self) -> Tensor:
        """Which tokens carry a loss, bool: by their own weight, or without one by their unit's."""
        if "weight_R" in self.columns:
            return self.columns["weight_R"] > 0
        return (self.columns["weight_U"] > 0)[self.unit_I[self.item_R]]

    @cached_property
    def counted_U(self) -> Tensor:
        """Which units carry a loss, bool: by their own weight, or without one by their tokens'."""
        if "weight_U" in self.columns:
            return self.columns["weight_U"] > 0
        counted_U = torch.zeros(self.num_units, dtype=torch.int64, device=self.unit_I.device)
        counted_U.index_add_(0, self.unit_I[self.item_R], self.counted_R.long())
        return counted_U > 0

    def masked(self, name: str) -> Tensor:
        """Return a column in ``_R`` with zeros where nothing counts."""
        return self.columns[name].masked_fill(~self.counted_R, 0.0)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Values before any mask or denominator, per token, per unit or both, and measurements."""

    values_R: Tensor | None = None
    values_U: Tensor | None = None
    diagnostics_R: Diagnostics = field(default_factory=Diagnostics)
    diagnostics_U: Diagnostics = field(default_factory=Diagnostics)

    def total(self, batch: LossBatch) -> Tensor:
        """Return this micro-batch's part of the loss of the whole optimizer batch.

        It stays connected to the graph even when every weight is 0: collectives of all ranks
        must match.
        """
        terms = []
        for values, weight, counted in (
            (self.values_R, "weight_R", "counted_R"),
            (self.values_U, "weight_U", "counted_U"),
        ):
            if values is not None:
                kept = values.masked_fill(~getattr(batch, counted), 0.0)
                terms.append((batch.columns[weight] * kept).sum())
        assert terms, "an objective must return values"
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]


class Objective(Protocol):
    """What one optimizer step minimises; it crosses processes, so it can be pickled."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a batch must carry; checked before the forward pass."""

    def __call__(self, outputs: Outputs, batch: LossBatch) -> Loss:
        """Evaluate one micro-batch."""
