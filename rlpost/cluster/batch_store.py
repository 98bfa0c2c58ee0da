"""Packed batches in Ray's object store: put there once, read by every verb.

Owns how long a batch stays there. Refuses to own the calls (ranks.py, reference.py) and the size
of the store (store_size.py). Invariants: a batch is put once, however many models score it and
train on it; it leaves the store with the ``Packed`` that it was made of; a rank is given no part
but its own.
"""

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from rlpost.errors import InfrastructureError
from rlpost.training.packing.pack import Packed


class HoldsBatches(Protocol):
    """Where the micro-batches are that ranks and scorers are called with."""

    def parts(self, packed: Packed) -> Sequence[Any]:
        """Return for each rank what its actor takes as its micro-batches.

        Raises:
            InfrastructureError: there is no room for them.
        """


class BatchStore:
    """Holds batches in the object store of the session that this process started or joined.

    Example::

        store = BatchStore()
        await ranks.each("score", store.parts(packed), 1.0, True)  # puts the batch
        await ranks.each("forward_backward", store.parts(packed), objective, 1.0)  # does not
    """

    def __init__(self) -> None:
        self._held: WeakKeyDictionary[Packed, list[Any]] = WeakKeyDictionary()

    def parts(self, packed: Packed) -> list[Any]:
        """Return a reference for each rank; Ray hands its actor the micro-batches themselves."""
        if packed not in self._held:
            self._held[packed] = [_put(mine) for mine in packed.batches]
        return self._held[packed]


def _put(part: Any) -> Any:
    import ray
    from ray.exceptions import ObjectStoreFullError, OutOfDiskError

    try:
        return ray.put(part)
    except (ObjectStoreFullError, OutOfDiskError) as error:
        raise InfrastructureError(
            "Ray's object store has no room for a batch, neither in shared memory nor on the disk "
            "that it spills to: free some of either, or train on less in a step; "
            f"Ray says: {str(error).splitlines()[0]}"
        ) from error
