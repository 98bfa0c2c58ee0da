"""Streams over TCP, through buckets in host memory.

Owns the gloo group. See ``wire.py``.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import xxhash

from rlpost.network import local_address
from rlpost.weights.transports.wire import run_aside

_LOOK_EVERY = timedelta(seconds=1)


class GlooGroup:
    """See ``wire.WireGroup``; each wait has the group's deadline.

    Connections are closed when nothing refers to the group or to its work any more, and the frames
    of an error refer to what they have seen: therefore work is known by its number.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self._works: dict[int, Any] = {}
        self._begun = 0

    def broadcast(self, slot: torch.Tensor) -> int:
        from torch.distributed import BroadcastOptions

        options = BroadcastOptions()
        options.rootRank = 0
        self._begun += 1
        self._works[self._begun] = self._group.broadcast([slot], options)
        return self._begun

    def wait(self, work: int, *, look: Callable[[], None]) -> None:
        while not self._ended(work):
            look()
        self._works[work].wait()  # raises what went wrong
        del self._works[work]

    def _ended(self, work: int) -> bool:
        """Wait for a while; returns whether it succeeded or failed."""
        try:
            self._works[work].wait(_LOOK_EVERY)
        except RuntimeError:  # it may have ended in this moment
            return bool(self._works[work].is_completed())
        return True

    def drop(self) -> None:
        held = [self._works, self._group]
        self._works, self._group = {}, None
        # What is under way ends at its own deadline, and the group waits for that.
        run_aside(held.clear)


class GlooWire:
    """See ``wire.Wire``."""

    name = "gloo"
    every_worker_joins = False
    exports = False
    device = torch.device("cpu")
    gpu: str | None = None

    def group(
        self, store: Any, *, host: str, rank: int, num_ranks: int, timeout_s: float
    ) -> GlooGroup:
        from torch.distributed import ProcessGroupGloo

        options = ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=timeout_s)
        # By itself gloo binds to what the host's own name resolves to, which need not lead there.
        options._devices = [ProcessGroupGloo.create_device(hostname=local_address(host))]
        return GlooGroup(ProcessGroupGloo(store, rank, num_ranks, options))

    def slots(self, size_bytes: int) -> list[torch.Tensor]:
        return [torch.empty(size_bytes, dtype=torch.uint8) for _ in range(2)]

    def exported(self, slots: list[torch.Tensor]) -> str:
        raise AssertionError("nothing is exported")

    def imported(self, handle: str) -> list[torch.Tensor]:
        raise AssertionError("nothing is exported")

    def checksum(self, payload: torch.Tensor) -> tuple[int, int]:
        """Return the two halves of the xxh3-128 digest."""
        digest = xxhash.xxh3_128_digest(payload.numpy())
        return (
            int.from_bytes(digest[:8], "little", signed=True),
            int.from_bytes(digest[8:], "little", signed=True),
        )

    def settle(self) -> None:
        """Host memory is as it was written."""

    def close(self) -> None:
        """Slots are torch's."""
