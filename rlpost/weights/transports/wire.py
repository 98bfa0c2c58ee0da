"""What streams over gloo, NCCL and CUDA IPC differ in.

Owns the protocol; ``gloo_wire.py``, ``nccl_wire.py`` and ``cuda_ipc_wire.py`` keep it. Refuses to
own the order of buckets (stream_sender.py, stream_receiver.py). Invariant: a wait that does not end
by the deadline is an error, and what was under way is aborted.
"""

import logging
from collections.abc import Callable
from threading import Thread
from typing import Any, Protocol

import torch

from rlpost.errors import WeightPushError

log = logging.getLogger(__name__)


class WireGroup(Protocol):
    """Who broadcasts together; rank 0 is the sender."""

    def broadcast(self, slot: torch.Tensor) -> Any:
        """Begin to broadcast; returns what ``wait`` takes."""

    def wait(self, work: Any, *, look: Callable[[], None]) -> None:
        """Wait until a broadcast is done.

        Args:
            work: what began it.
            look: called about once a second; raises if there is no use in waiting any longer.

        Raises:
            RuntimeError: a peer is gone, or the deadline has passed.
        """

    def drop(self) -> None:
        """End the group, and whatever is under way in it; returns at once.

        What is under way may reach its slots for a while yet.
        """


class Wire(Protocol):
    """The parameters of a stream."""

    name: str  # of the transport
    every_worker_joins: bool  # the group; else one worker of each other host does, for its host
    exports: (
        bool  # its slots, which other processes of a host map; else those lie in a file of theirs
    )
    device: torch.device  # where buckets lie
    gpu: str | None  # a sender reaches the workers on this one alone; None: everybody

    def group(
        self, store: Any, *, host: str, rank: int, num_ranks: int, timeout_s: float
    ) -> WireGroup:
        """Form a group; collective.

        Raises:
            RuntimeError: a peer did not come in time.
        """

    def slots(self, size_bytes: int) -> list[torch.Tensor]:
        """Return room for two buckets, for one process; what it returned before is given back."""

    def exported(self, slots: list[torch.Tensor]) -> str:
        """Return by what another process of this host finds these slots, if it ``exports``."""

    def imported(self, handle: str) -> list[torch.Tensor]:
        """Return the slots that another process of this host exported, if it ``exports``.

        Raises:
            RuntimeError: they cannot be reached from here.
        """

    def checksum(self, payload: torch.Tensor) -> tuple[int, int]:
        """Return two int64 that depend on every byte of contiguous uint8."""

    def settle(self) -> None:
        """Wait until what was begun on the device is done, before another process may see it."""

    def close(self) -> None:
        """Give back all slots, own and imported."""


def await_work(group: WireGroup, work: Any, *, look: Callable[[], None]) -> None:
    """Wait until a broadcast is done; see ``WireGroup.wait``.

    Whoever fails says why, and leaves the group at once: to the others that is a broken connection,
    and may come before the words. So these are looked for once more.

    Raises:
        RuntimeError: the reason that was given, else what the group says.
    """
    try:
        group.wait(work, look=look)
    except WeightPushError:
        raise
    except RuntimeError:
        look()
        raise


def run_aside(end: Callable[[], None]) -> None:
    """Run what may wait for a peer, and whose failure nobody can mend, beside everything else."""

    def run() -> None:
        try:
            end()
        except RuntimeError as error:
            log.warning("a group of a push that had failed did not end well: %s", error)

    Thread(target=run, daemon=True).start()
