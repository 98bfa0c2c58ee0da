"""A model that is merged, and its tensors in float32.

Owns reading, whole or in pieces, and the refusal of values that are not finite. Refuses to own what
is made of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.errors import UserError
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.fingerprint import fingerprint_of

PIECE = 2**18  # entries: several such pieces stay in a processor's cache


@dataclass(frozen=True, kw_only=True)
class MergeInput:
    """A model that is merged, or the base."""

    name: str  # as the user called it
    directory: ModelDirectory
    fingerprint: str

    @classmethod
    def of(cls, name: str, directory: ModelDirectory) -> "MergeInput":
        """Take the fingerprint of the weights."""
        fingerprint = fingerprint_of(directory.tensors)
        return cls(name=name, directory=directory, fingerprint=fingerprint)

    def whole_numbers(self, tensor: str) -> Tensor:
        """Return a tensor as it is stored."""
        return self.directory.tensors[tensor].read()

    def pieces(self, tensor: str, *, entries: int = PIECE) -> Iterator[Tensor]:
        """Yield a tensor from its first entry on, flat; each piece is valid until the next.

        Raises:
            UserError: a value is not finite.
        """
        stored = self.directory.tensors[tensor]
        for piece in stored.pieces(entries=entries):
            value = piece.float()
            if not is_finite(value):
                raise UserError(
                    f"{self.directory.field}: {stored.file} holds values in {tensor} that are not "
                    "finite numbers, so the model was damaged when it was trained or written; use "
                    "another copy of it"
                )
            yield value


def is_finite(value: Tensor) -> bool:
    """Whether every entry is finite; a sum, which is cheap, decides unless it overflows."""
    return bool(torch.isfinite(value.sum(dtype=torch.float32)) or torch.isfinite(value).all())
