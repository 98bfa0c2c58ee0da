"""What a merge method is: arithmetic on one tensor of several models, and the options it has.

Owns the contract and the registry. Refuses to own files, streaming and which models there are.
Invariants: a method is a pure function of float32 tensors that changes none of them and shares no
memory with its result; all numbers that it needs, the seeds among them, come with the call, so that
neither the order of tensors nor the layout of files makes a difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol

from torch import Tensor

from rlpost.bounds import number
from rlpost.errors import UserError
from rlpost.registry import Registry

MOST_WEIGHT = 1e6
CHUNK = 2**17  # entries that a processor's cache holds of several tensors


class BaseUse(Enum):
    """What a method does with a base model."""

    required = "required"  # it merges differences from the base
    optional = "optional"
    measured = "measured"  # for the report alone


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which entries of a task vector are kept: the larger ones, and the first of the equal ones.

    Example: ``Cut(size=0.5, end=7)`` keeps what is larger than 0.5, and up to place 6 what is 0.5.
    """

    size: float
    end: int  # a place in the flat tensor

    def mask(self, tau: Tensor, *, start: int = 0) -> Tensor:
        """Return which entries are kept of those that begin at the place ``start``; flat."""
        sizes = tau.abs().flatten()
        mask = sizes > self.size
        if start < self.end:
            mask[: self.end - start] |= sizes[: self.end - start] == self.size
        return mask


@dataclass(frozen=True, kw_only=True)
class TensorInputs:
    """One tensor of every model, or the same entries of it, float32.

    Example: ``TensorInputs(values=[a, b], base=theta, seeds=[17, 4])``
    """

    values: Sequence[Tensor]
    base: Tensor | None = None
    seeds: Sequence[int] = ()  # one for each model, of this tensor
    start: int = 0  # place in the flat tensor of the first entry
    cuts: Sequence[Cut] = ()  # what of each model's task vector is kept, where it is trimmed

    @property
    def task_vectors(self) -> list[Tensor]:
        """The differences from the base, which must be there."""
        assert self.base is not None, "the method needs a base"
        return [value - self.base for value in self.values]


@dataclass(frozen=True, kw_only=True)
class MergedTensor:
    """The result, float32, and what the report says of it."""

    value: Tensor
    kept: Sequence[float] = ()  # share of each task vector that was used
    cosine: float | None = None  # between the two directions of a spherical interpolation


@dataclass(kw_only=True)
class PerModel:
    """Options of each model of a method that has none."""


@dataclass(kw_only=True)
class Weighted(PerModel):
    """Options of each model of a weighted sum."""

    weight: float = number(
        1.0, at_least=-MOST_WEIGHT, at_most=MOST_WEIGHT, help="factor of the model"
    )


@dataclass(kw_only=True)
class Sparse(Weighted):
    """Options of each model of a sum of sparse task vectors."""

    density: float = number(
        1.0, above=0, at_most=1, hint="1 keeps everything", help="share of entries that is kept"
    )


class MethodConfig(Protocol):
    """The options that all models of a method share."""

    per_model: ClassVar[type[PerModel]]
    base_use: ClassVar[BaseUse]
    num_models: ClassVar[int | None]  # None: any number
    by_entry: ClassVar[bool]  # an entry of the result depends on that entry of the inputs alone

    def check_models(self, models: Sequence[Any], path: str) -> None:
        """Raises UserError: the models' options do not fit together."""


class Merge(Protocol):
    """A merge method."""

    def __call__(
        self, inputs: TensorInputs, models: Sequence[Any], cfg: Any
    ) -> MergedTensor:  # pragma: no cover
        """Merge one tensor; ``models`` holds the options of each model, in the inputs' order."""
        ...


def require_positive_sum(models: Sequence[Weighted], path: str) -> None:
    """Refuse weights by whose sum nothing can be divided.

    Raises:
        UserError: the sum is not above 0.
    """
    total = sum(each.weight for each in models)
    if not total > 0:
        raise UserError(
            f"{path}.normalize divides by the sum of the weights, which must be above 0, got "
            f"{total:g}; set normalize to false, or give other weights"
        )


def weighted_sum(tensors: Sequence[Tensor], models: Sequence[Weighted]) -> Tensor:
    """Return the sum of the tensors times their weights; the inputs are left as they are."""
    total = tensors[0] * models[0].weight
    for tensor, own in zip(tensors[1:], models[1:], strict=True):
        total.add_(tensor, alpha=own.weight)
    return total


def in_chunks(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the same entries of each tensor, as flat views that a processor's cache can hold."""
    flat = [tensor.flatten() for tensor in tensors]
    for start in range(0, flat[0].numel(), CHUNK):
        yield [each[start : start + CHUNK] for each in flat]


merges = Registry("merge.method")
