"""Who takes part in one push over a network, in which group, and why it failed.

Owns what is said in the sender's store. Refuses to own bytes. Invariants: each wait has a deadline;
who is told of a failure knows that it is another's; whoever did not come is named to everybody
else; a group is used again only by exactly the processes that formed it, and never after a failure.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rlpost.errors import PushEnded, WeightPushError
from rlpost.weights.deadline import RECEIVER_PHASES

_BEGIN, _FAILED = "begin", "failed"
_LOOK_EVERY_S = 1.0


def join(host: str, port: int, *, timeout_s: float) -> Any:
    """Connect to the store of the sender.

    Raises:
        RuntimeError: it does not answer in time.
    """
    from torch.distributed import TCPStore

    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s))


class Meeting:
    """One process's view of it.

    Args:
        store: of the sender.
        push: number of the push.
        timeout_s: deadline of a wait.
    """

    def __init__(self, store: Any, *, push: int, timeout_s: float) -> None:
        from torch.distributed import PrefixStore

        self._store = PrefixStore(f"push {push}", store)
        self._timeout_s = timeout_s

    def gather(self, members: Sequence[str]) -> dict[str, str]:
        """Wait for everybody (sender); returns by member which process came.

        Raises:
            WeightPushError: names who did not come; they are told, too.
        """
        until_s = time.monotonic() + self._timeout_s
        came = {member: self._came(member, until_s=until_s) for member in members}
        late = [member for member, process in came.items() if process is None]
        if late:
            names = ", ".join(member.partition(" ")[0] for member in late)
            raise self.failed(members, f"{names} did not come in {self._timeout_s:g} s")
        return {member: process for member, process in came.items() if process is not None}

    def _came(self, member: str, *, until_s: float) -> str | None:
        key, left_s = f"here {member}", max(0.001, until_s - time.monotonic())
        try:
            self._store.wait([key], timedelta(seconds=left_s))
        except RuntimeError:
            return None
        return _heard(self._store.get(key).decode())

    def begin(self, group: str) -> None:
        """Let everybody begin, in the group of this name (sender)."""
        self._store.set(_BEGIN, f"+{group}")

    def arrive(self, member: str, *, process: str) -> str:
        """Say which process is there as ``member``; returns the group's name once all are.

        Raises:
            PushEnded: others did not come.
            RuntimeError: the sender is silent.
        """
        self._store.compare_set(f"here {member}", "", f"+{process}")
        # Longer than the sender waits: it knows who is missing, and tells.
        self._store.wait([_BEGIN], timedelta(seconds=RECEIVER_PHASES * self._timeout_s))
        return _heard(self._store.get(_BEGIN).decode())

    def failed(self, members: Sequence[str], why: str) -> WeightPushError:
        """Tell those who take part, or come later, why it is over; returns the error."""
        try:
            for key in self._keys(members):
                self._store.compare_set(key, "", f"-{why}")  # unless it was said already
        except RuntimeError:
            pass  # the sender is gone, and they notice that themselves
        return WeightPushError(why)

    def forget(self, members: Sequence[str]) -> None:
        """Remove what was said (sender, once nobody listens)."""
        for key in self._keys(members):
            self._store.delete_key(key)

    def look(self) -> None:
        """Return if it goes on.

        Raises:
            PushEnded: somebody has failed; says why.
            RuntimeError: the sender is gone.
        """
        if self._store.check([_FAILED]):
            _heard(self._store.get(_FAILED).decode())

    @staticmethod
    def _keys(members: Sequence[str]) -> list[str]:
        return [_FAILED, _BEGIN, *(f"here {member}" for member in members)]


class Onlooker:
    """Sees whether a push is over, for a worker that takes no part in its meeting.

    Whoever receives for its host may have died before it could tell. The sender is asked once a
    second, and not at all where a push begins at once.

    Args:
        host: of the sender's store.
        port: of the sender's store.
        push: number of the push.
        timeout_s: deadline of an answer.
    """

    def __init__(self, host: str, port: int, *, push: int, timeout_s: float) -> None:
        self._host, self._port, self._push, self._timeout_s = host, port, push, timeout_s
        self._meeting: Meeting | None = None
        self._next_s = time.monotonic() + _LOOK_EVERY_S

    def look(self) -> None:
        """See ``Meeting.look``."""
        if time.monotonic() < self._next_s:
            return
        if self._meeting is None:
            store = join(self._host, self._port, timeout_s=self._timeout_s)
            self._meeting = Meeting(store, push=self._push, timeout_s=self._timeout_s)
        self._meeting.look()
        self._next_s = time.monotonic() + _LOOK_EVERY_S


class Groups:
    """The group that a sender keeps for as long as the same processes come."""

    def __init__(self) -> None:
        self._processes: Mapping[str, str] = {}
        self._number = 0
        self._healthy = False

    def name_for(self, processes: Mapping[str, str]) -> tuple[str, bool]:
        """Return the group's name, and whether it must be formed."""
        forms = not self._healthy or dict(self._processes) != dict(processes)
        if forms:
            self._number += 1
            self._processes, self._healthy = dict(processes), True
        return f"group {self._number}", forms

    def spoil(self) -> None:
        """Form another one next time, whoever comes."""
        self._healthy = False


def _heard(word: str) -> str:
    """Return what was said, unless it is why there is nothing to say."""
    if word.startswith("-"):
        raise PushEnded(word[1:])
    return word[1:]
