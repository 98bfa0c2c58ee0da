"""The actors of a frozen model, seen from the driver, and those that have the whole model each.

Owns what is asked of them and the calls of copies. Refuses to own the forward pass
(training/model/scorer.py), which micro-batches whom are given (reference.py) and ranks that divide
the model (divided.py).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlpost.cluster.handle import Stateless
from rlpost.training.model.scorer import ALL, Share


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one scorer is asked of: a share of the micro-batches of a trainer's rank."""

    part: Any  # what an actor takes as the rank's micro-batches
    share: Share
    num: int  # micro-batches of the share


class Scorers(Protocol):
    """The actors of a frozen model."""

    @property
    def num(self) -> int:
        """How many share the work."""

    async def setup(self) -> None:
        """Return when the model can be asked, or as soon as asking may wait for that."""

    async def ask(self, method: str, asked: Sequence[Asked], **options: Any) -> list[list[Any]]:
        """Call ``method``; returns the answers of each share's micro-batches, in order."""

    async def sleep(self) -> int:
        """Leave memory until the next call; returns the bytes of all together."""

    def kill(self) -> None:
        """End the actors for good."""


class Copies:
    """Scorers that have the whole model each, and load it when they are spawned."""

    def __init__(self, scorers: Sequence[Stateless]) -> None:
        self._scorers = scorers

    @property
    def num(self) -> int:
        return len(self._scorers)

    async def setup(self) -> None:
        """Do nothing: a call waits until the model is loaded."""

    async def ask(self, method: str, asked: Sequence[Asked], **options: Any) -> list[list[Any]]:
        """See ``Scorers.ask``; side by side."""
        calls = []
        for number, each in enumerate(asked):
            own = options if each.share == ALL else {**options, "share": each.share}
            calls.append(self._scorers[number % self.num].call(method, each.part, **own))
        return await asyncio.gather(*calls)

    async def sleep(self) -> int:
        return sum(await asyncio.gather(*(scorer.sleep() for scorer in self._scorers)))

    def kill(self) -> None:
        for scorer in self._scorers:
            scorer.kill()
