"""One phase of a push: everyone who takes part is asked at once.

Owns the deadline and who is to blame. Refuses to own the order of phases and what follows from
a refusal (bus.py). Invariant: a phase ends with an answer of everyone, or with the name and the
reason of each who gave none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from rlpost.errors import InfrastructureError, NoAnswer, ProcessDied, PushEnded
from rlpost.weights.protocol import PushTarget

Verb = Callable[[str, PushTarget], Awaitable[Any]]


class Refused(Exception):
    """Generators that failed a phase, and why."""

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        super().__init__("; ".join(f"{name}: {error}" for name, error in failures.items()))
        self.failures = failures

    def useless(self, *, again: bool) -> dict[str, Exception]:
        """Return who has to be replaced, and why.

        Those are gone or silent; if the same weights were refused ``again`` also those that failed
        by themselves. Who was only told that another one failed would fail no less in a new
        process.
        """
        return {
            name: error
            for name, error in self.failures.items()
            if isinstance(error, NoAnswer | ProcessDied)
            or (again and not isinstance(error, PushEnded))
        }


async def ask_all(
    names: Iterable[str],
    receivers: Mapping[str, PushTarget],
    call: Verb,
    *,
    phase: str,
    timeout_s: float,
) -> dict[str, Any]:
    """Call every participant; collects all failures before it raises.

    Args:
        names: who takes part.
        receivers: name -> generator; whoever is missing has left the fleet.
        call: what to ask of each.
        phase: how errors call it.
        timeout_s: deadline of all together.

    Raises:
        Refused: names who failed or missed the deadline, and why.
        Exception: of another kind than infrastructure: a bug.
    """
    asked = list(names)
    tasks = {
        name: asyncio.ensure_future(call(name, receivers[name]))
        for name in asked
        if name in receivers
    }
    for task in tasks.values():
        task.add_done_callback(noticed)
    try:
        if tasks:
            await asyncio.wait(tasks.values(), timeout=timeout_s)
    finally:
        late = [name for name, task in tasks.items() if not task.done()]
        for name in late:
            tasks[name].cancel()
    failures: dict[str, Exception] = {
        name: ProcessDied("left the fleet") for name in asked if name not in tasks
    }
    for name, task in tasks.items():
        if name in late:
            failures[name] = NoAnswer(f"{name} did not finish {phase} in {timeout_s:g} s")
        elif (error := task.exception()) is not None:
            if not isinstance(error, InfrastructureError):
                raise error
            failures[name] = error
    if failures:
        raise Refused(failures)
    return {name: task.result() for name, task in tasks.items()}


def noticed(task: "asyncio.Future[Any]") -> None:
    """Mark a failure as seen: who asked for it may be gone."""
    if not task.cancelled():
        task.exception()
