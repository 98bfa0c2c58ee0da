"""What a merge reports of itself: how alike the models are, and what was kept of them.

Owns the sums over tensors. Refuses to own values of the result. Invariant: sums are exact enough
that the order of tensors shows in no printed digit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from rlpost.merging.methods.base import MergedTensor, in_chunks
from rlpost.merging.methods.slerp import dot


@dataclass(kw_only=True)
class TensorMeasures:
    """Sums over the pieces of one tensor."""

    products: dict[tuple[str, str], float] = field(default_factory=dict)
    conflicting: int = 0
    entries: int = 0
    kept: dict[str, float] = field(default_factory=dict)  # entries
    slerp_cosine: float | None = None

    def add(self, vectors: Mapping[str, Tensor], merged: MergedTensor) -> None:
        """Take note of a piece.

        Args:
            vectors: weights or task vectors by model, float32.
            merged: what was made of them.
        """
        size = merged.value.numel()
        pairs = [(model, model) for model in vectors] + list(combinations(vectors, 2))
        for one, two in pairs:
            product = dot(vectors[one], vectors[two])
            self.products[one, two] = self.products.get((one, two), 0.0) + product
        if len(vectors) > 1:
            self.conflicting += _conflicts(list(vectors.values()))
        self.entries += size
        if merged.kept:
            for model, share in zip(vectors, merged.kept, strict=True):
                self.kept[model] = self.kept.get(model, 0.0) + share * size
        self.slerp_cosine = merged.cosine

    def row(self) -> dict[str, Any]:
        """Return what ``merge.json`` says of the tensor."""
        models = [one for one, two in self.products if one == two]
        row: dict[str, Any] = {}
        if models[1:]:
            row["cosines"] = [_cosine(self.products, *pair) for pair in combinations(models, 2)]
        row["norms"] = [math.sqrt(self.products[model, model]) for model in models]
        if models[1:]:
            row["sign_conflicts"] = self.conflicting / max(1, self.entries)
        if self.kept:
            row["kept"] = [self.kept[model] / max(1, self.entries) for model in models]
        if self.slerp_cosine is not None:
            row["slerp_cosine"] = self.slerp_cosine
        return row


@dataclass(kw_only=True)
class MergeMeasures:
    """Sums over the tensors that were merged so far."""

    base: str | None  # if there is one, task vectors are measured, otherwise weights
    products: dict[tuple[str, str], float] = field(default_factory=dict)
    conflicting: int = 0  # entries on which two models have different signs
    entries: int = 0
    kept: dict[str, float] = field(default_factory=dict)  # entries of each task vector
    sizes: dict[str, int] = field(default_factory=dict)  # of the tensors of which some were kept
    tensors: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, measured: "TensorMeasures") -> None:
        """Take note of a tensor of the result."""
        for pair, product in measured.products.items():
            self.products[pair] = self.products.get(pair, 0.0) + product
        self.conflicting += measured.conflicting
        self.entries += measured.entries
        for model, count in measured.kept.items():
            self.kept[model] = self.kept.get(model, 0.0) + count
            self.sizes[model] = self.sizes.get(model, 0) + measured.entries
        self.tensors[name] = measured.row()

    @property
    def models(self) -> list[str]:
        """What was measured, in the order of the lists in ``tensors``."""
        return [first for first, second in self.products if first == second]

    def cosine(self, first: str, second: str) -> float | None:
        """Return the cosine over all tensors; None: one of the two is zero."""
        return _cosine(self.products, first, second)

    def norm(self, model: str) -> float:
        """Return the length over all tensors."""
        return math.sqrt(self.products[model, model])

    def density(self, model: str) -> float | None:
        """Return the share of entries that was kept; None: the method keeps all."""
        return self.kept[model] / max(1, self.sizes[model]) if model in self.kept else None

    @property
    def sign_conflicts(self) -> float | None:
        """Share of the entries on which the signs of two models differ; None: not compared."""
        counted = len(self.models) > 1 and self.entries > 0
        return self.conflicting / self.entries if counted else None

    def metrics(self) -> dict[str, float]:
        """Return what the model card says."""
        cosines = [self.cosine(*pair) for pair in combinations(self.models, 2)]
        known = [each for each in cosines if each is not None]
        found = {"merge/lowest_cosine": min(known)} if known else {}
        if self.sign_conflicts is not None:
            found["merge/sign_conflicts"] = self.sign_conflicts
        return found

    def record(self) -> dict[str, Any]:
        """Return what ``merge.json`` says."""
        models = self.models
        return {
            "measured": "weights" if self.base is None else "task vectors",
            "models": models,
            "norms": {model: self.norm(model) for model in models},
            "cosines": [
                {"models": [first, second], "cosine": self.cosine(first, second)}
                for first, second in combinations(models, 2)
            ],
            "sign_conflicts": self.sign_conflicts,
            "kept_density": {
                model: density for model in models if (density := self.density(model)) is not None
            },
            "tensors": self.tensors,
        }


def _cosine(products: Mapping[tuple[str, str], float], first: str, second: str) -> float | None:
    length = math.sqrt(products[first, first]) * math.sqrt(products[second, second])
    product = products.get((first, second), products.get((second, first), 0.0))
    return max(-1.0, min(1.0, product / length)) if length > 0 else None


def _conflicts(vectors: list[Tensor]) -> int:
    count = 0
    for first, *rest in in_chunks(vectors):
        high, low = first, first
        for each in rest:
            high, low = torch.maximum(high, each), torch.minimum(low, each)
        count += int(torch.count_nonzero((high > 0) & (low < 0)))
    return count
