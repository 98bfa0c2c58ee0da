"""Who takes part in one broadcast, and how it ended for each host.

Owns what is said in the sender's store. Refuses to own bytes. Invariants: each wait has a deadline;
whoever did not come is named to everybody else; a host learns of a failure from whoever knows it
first, the sender or the worker that receives for it.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rlpost.errors import WeightPushError

VERBS = ("here", "received")  # what whoever receives for a host says, in this order


def join(host: str, port: int, *, timeout_s: float) -> Any:
    """Connect to the store of the sender.

    Raises:
        RuntimeError: it does not answer in time.
    """
    from torch.distributed import TCPStore

    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s))


class Meeting:
    """One process's view of it; hosts are named by their shared memory.

    Args:
        store: of the sender, new for each broadcast.
        timeout_s: deadline of a wait.
    """

    def __init__(self, store: Any, *, timeout_s: float) -> None:
        self.store = store
        self._timeout_s = timeout_s

    def begin(self, hosts: Sequence[str]) -> None:
        """Wait for everybody, and let them begin (sender).

        Raises:
            WeightPushError: names who did not come; they are told, too.
        """
        until_s = time.monotonic() + self._timeout_s
        late = [host for host in hosts if not self._came(host, until_s=until_s)]
        if late:
            names = ", ".join(host.partition(" ")[0] for host in late)
            raise self.failed(
                hosts, f"gloo broadcast failed: {names} did not come in {self._timeout_s:g} s"
            )
        self.store.set("begin", "")

    def _came(self, host: str, *, until_s: float) -> bool:
        key, left_s = f"here {host}", max(0.001, until_s - time.monotonic())
        try:
            self.store.wait([key], timedelta(seconds=left_s))
        except RuntimeError:
            return False
        if why := self.store.get(key).decode():
            raise WeightPushError(why)
        return True

    def arrive(self, host: str) -> None:
        """Say that who receives for ``host`` is there, and wait until it begins.

        Raises:
            WeightPushError: others did not come.
            RuntimeError: the sender is silent.
        """
        self.store.set(f"here {host}", "")
        self._hear("begin")

    def received(self, host: str) -> None:
        """Let the others on ``host`` read."""
        self.store.set(f"received {host}", "")

    def await_received(self, host: str) -> None:
        """Wait for whoever receives for ``host``: for its arrival and for the bytes.

        Raises:
            WeightPushError: it failed; says why.
            RuntimeError: it is silent.
        """
        self._hear(f"received {host}")

    def failed(self, hosts: Sequence[str], why: str) -> WeightPushError:
        """Tell those who wait for ``hosts`` why they will not get it; returns the error."""
        try:
            for key in ("begin", *(f"{verb} {host}" for host in hosts for verb in VERBS)):
                self.store.compare_set(key, "", why)  # unless it was said already
        except RuntimeError:
            pass  # the sender is gone, and they notice that themselves
        return WeightPushError(why)

    def _hear(self, key: str) -> None:
        # Twice as long as the sender waits: it knows who is missing, and tells.
        self.store.wait([key], timedelta(seconds=2 * self._timeout_s))
        why = self.store.get(key).decode()
        if why:
            raise WeightPushError(why)
