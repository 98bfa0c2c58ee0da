"""Which adapters a server has, by name, and who may still use each of them.

Owns names, ids and states: loading, serving, draining, gone. Refuses to own engines, waiting and
clocks (stages/serve/): whoever waits for the end of a drain is told when it may look again.
Invariants: a name stands for the same weights as long as the server lives; an id is never used
twice; nothing enters an adapter that drains; an adapter leaves the engine only when nothing is in
it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rlpost.errors import UserError


class NameTaken(UserError):
    """The name stands for something else, or is busy."""


class NoSuchAdapter(UserError):
    """There is no adapter of that name, or no longer."""


class NoRoom(UserError):
    """The engine was built for fewer adapters."""


class AdapterState(Enum):
    """Where an adapter stands between its load and its removal."""

    loading = "loading"  # validated and probed; nobody may use it
    serving = "serving"
    draining = "draining"  # what runs may end; nothing new enters


@dataclass(kw_only=True)
class ServedAdapter:
    """One adapter of a server.

    Example: ``ServedAdapter(name="math@2", number=3, state=AdapterState.serving)``
    """

    name: str
    number: int  # the engine's id
    state: AdapterState = AdapterState.loading
    about: Mapping[str, Any] = field(default_factory=dict)  # what its examination found
    running: list[str] = field(default_factory=list)  # ids of its requests, which clients choose
    started: int = 0  # requests so far


class ServedAdapters:
    """The adapters of one server.

    Args:
        base: the name of the model itself, which no adapter may have.
        room: how many adapters the engine holds at once.
    """

    def __init__(self, *, base: str, room: int) -> None:
        self._base = base
        self._room = room
        self._by_name: dict[str, ServedAdapter] = {}
        self._digests: dict[str, str] = {}  # of every name that was ever served
        self._last = 0

    def __iter__(self) -> Any:
        return iter(list(self._by_name.values()))

    @property
    def numbers(self) -> list[int]:
        """Ids that the engine must keep."""
        return sorted(each.number for each in self._by_name.values())

    def begin(self, name: str) -> ServedAdapter:
        """Reserve a name and an id for an adapter that is about to be loaded.

        Raises:
            NameTaken: the name is in use.
            NoRoom: nothing more fits.
        """
        if name == self._base:
            raise NameTaken(f"{name} is the base itself; give the adapter another name")
        if (found := self._by_name.get(name)) is not None:
            raise NameTaken(
                f"{name} is {found.state.value} already; give a new version a new name, such as "
                f"{next_version(name)}, and unload {name} afterwards"
            )
        if len(self._by_name) >= self._room:
            raise NoRoom(
                f"the engine was started with room for serve.max_adapters={self._room} adapters; "
                "unload one first, or start the server with more room"
            )
        self._last += 1
        self._by_name[name] = ServedAdapter(name=name, number=self._last)
        return self._by_name[name]

    def bind(self, name: str, *, digest: str, about: Mapping[str, Any]) -> None:
        """Say which weights the name stands for, once they are known.

        Raises:
            NameTaken: it stood for others before.
        """
        if self._digests.get(name, digest) != digest:
            raise NameTaken(
                f"{name} stood for other weights since this server was started, and answers are "
                f"known by it; give a new version a new name, such as {next_version(name)}"
            )
        self._digests[name] = digest
        self._by_name[name].about = dict(about)

    def serve(self, name: str) -> None:
        """Let requests use an adapter that is loaded and proved."""
        self._by_name[name].state = AdapterState.serving

    def forget(self, name: str) -> None:
        """Drop an adapter whose load failed, or that has drained and left the engine."""
        self._by_name.pop(name, None)

    def enter(self, number: int, request: str) -> ServedAdapter:
        """Count a request that begins.

        Raises:
            NoSuchAdapter: the adapter drains or is gone.
        """
        for each in self._by_name.values():
            if each.number == number and each.state is AdapterState.serving:
                each.running.append(request)
                each.started += 1
                return each
        raise NoSuchAdapter("the adapter was unloaded before the request began")

    def leave(self, adapter: ServedAdapter, request: str) -> None:
        """Count a request that ended, however it did."""
        adapter.running.remove(request)

    def drain(self, name: str) -> ServedAdapter:
        """Let nothing new enter an adapter; it may be forgotten when nothing is in it.

        Raises:
            NoSuchAdapter: there is none of that name.
            NameTaken: it is being loaded, or somebody else unloads it.
        """
        found = self._by_name.get(name)
        if found is None:
            served = ", ".join(self._by_name) or "none"
            raise NoSuchAdapter(f"there is no adapter {name!a:.100}; loaded: {served}")
        if found.state is not AdapterState.serving:
            raise NameTaken(f"{name} is {found.state.value}; wait until that has ended")
        found.state = AdapterState.draining
        return found


def next_version(name: str) -> str:
    """Return the usual name of the version after one. Example: ``math@3`` after ``math@2``."""
    stem, at, number = name.rpartition("@")
    if at and stem and number.isdecimal():
        return f"{stem}@{int(number) + 1}"
    return f"{name}@2"
