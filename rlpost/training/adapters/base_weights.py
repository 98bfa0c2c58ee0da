"""How the start of an adapter reads its base's weights, in one process or divided over several.

Owns the protocol, and its form for a process that has every weight. Refuses to own divided weights
(zero/deepspeed_whole.py).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor


class BaseWeights(Protocol):
    """Access to weights that ranks may have divided; every call is collective."""

    def whole(self, tensors: Sequence[Tensor]) -> AbstractContextManager[Any]:
        """Return a block in which the tensors are whole; what is written to them is kept."""

    def in_peft(self) -> AbstractContextManager[Any]:
        """Return a block in which peft finds whole weights in the layers that it makes."""


class HeldWeights:
    """Of a process that has every weight."""

    def whole(self, tensors: Sequence[Tensor]) -> AbstractContextManager[Any]:
        return nullcontext()

    def in_peft(self) -> AbstractContextManager[Any]:
        return nullcontext()
