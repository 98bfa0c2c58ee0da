"""Mechanisms of the controller, each of which can be taken away for a while."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from simulation.driver import CheckedProducer

from rlpost.control.fleet import Fleet
from rlpost.control.ledger import Ledger
from rlpost.control.staleness import Staleness
from rlpost.rollout.adapter_pushes import AdapterPushes
from rlpost.rollout.interruption import Interruption
from rlpost.rollout.producer import Producer
from rlpost.types import Episode, Span
from rlpost.weights.turns import Turns


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


def _sampled_phrase() -> AbstractContextManager[None]:
    """What is written into a response passes for sampled, with a log-prob that is made up."""
    original = Interruption.joined

    def joined(self: Interruption, first: Episode, continuation: Episode) -> Episode:
        whole = original(self, first, continuation)
        (trajectory,) = whole.trajectories
        begin, end = first.num_sampled, first.num_sampled + len(self.token_ids)
        written = Span(start=begin, end=end, version=first.versions[-1])
        spans = sorted((*trajectory.spans, written), key=lambda span: span.start)
        said = trajectory.rollout_logprobs
        padded = (*said[:begin], *[0.0] * len(self.token_ids), *said[begin:])
        trajectory = replace(trajectory, spans=tuple(spans), rollout_logprobs=padded)
        return replace(whole, trajectories=(trajectory,))

    return replaced(Interruption, "joined", joined)


async def _stay(self: Turns, engaged: set[str]) -> None:
    """Whoever generates stays on the device."""


CONTROLS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "sweep": _no_sweep,
    "consume": lambda: replaced(Ledger, "consume", lambda self, uid, step: None),
    "drop": lambda: replaced(Ledger, "drop", lambda self, uid, reason: None),
    "incarnation": lambda: replaced(
        Fleet, "_current", lambda self, name, incarnation: self.members.get(name)
    ),
    "version boundary": _frozen_step,
    "eviction": lambda: replaced(Producer, "_evict", lambda self: None),
    "observation": _sampled_phrase,
    "age of tokens": lambda: replaced(Staleness, "oldest_version", lambda self: 0),
    "adapters in use": lambda: replaced(
        AdapterPushes, "_needed", lambda self: [self.version] if self.version else []
    ),
    "turns": lambda: replaced(Turns, "rest", _stay),
    "earliest deadline": lambda: replaced(Staleness, "_in_time", lambda self, left: True),
}

assert issubclass(CheckedProducer, Producer)
