"""Mechanisms of the controller, each of which can be taken away for a while."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from simulation.driver import CheckedProducer

from rlpost.control.fleet import Fleet
from rlpost.control.ledger import Ledger
from rlpost.control.staleness import Staleness
from rlpost.rollout.producer import Producer


@contextmanager
def replaced(owner: type, name: str, replacement: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _no_sweep() -> AbstractContextManager[None]:
    original = Producer.restore

    def restore(self: Producer, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._again.clear()

    return replaced(Producer, "restore", restore)


def _frozen_step() -> AbstractContextManager[None]:
    def committed(self: Staleness, *, version: int, step: int) -> None:
        self._step_of[version] = self.step = 0

    return replaced(Staleness, "committed", committed)


CONTROLS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "sweep": _no_sweep,
    "consume": lambda: replaced(Ledger, "consume", lambda self, uid, step: None),
    "drop": lambda: replaced(Ledger, "drop", lambda self, uid, reason: None),
    "incarnation": lambda: replaced(
        Fleet, "_current", lambda self, name, incarnation: self.members.get(name)
    ),
    "version boundary": _frozen_step,
    "eviction": lambda: replaced(Producer, "_evict", lambda self: None),
    "earliest deadline": lambda: replaced(Staleness, "_in_time", lambda self, left: True),
}

assert issubclass(CheckedProducer, Producer)
