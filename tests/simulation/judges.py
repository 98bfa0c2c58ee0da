"""Simulated verifiers behind the real retry of ``cluster.handle.Stateless``."""

import itertools
from typing import Any

from simulation.process import Process

from rlpost.cluster.handle import Stateless
from rlpost.types import Group, Verdict

JUDGE_S = 0.1


class Verifier:
    """The body of a verifier's process: a response is right when its tokens' sum is even."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def judge(self, group: Group) -> list[tuple[Verdict, ...]]:
        await self._process.work(JUDGE_S)
        judged: list[tuple[Verdict, ...]] = []
        for episode in group.episodes:
            reward = float(sum(episode.response_ids) % 2 == 0)
            judged.append((Verdict(verifier="parity", reward=reward),))
        return judged


class VerifierHandle:
    """As ``Stateless`` sees an actor."""

    def __init__(self, world: Any, name: str) -> None:
        self._limit_s = world.limits.judge_s
        self._process = Process(world, name)
        self._process.body = Verifier(self._process)
        world.verifiers[name] = self._process

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        return await self._process.call(method, *args, timeout_s=timeout_s or self._limit_s)

    def kill(self) -> None:
        self._process.kill()


class Judges:
    """A group goes to the next verifier in turn."""

    def __init__(self, world: Any) -> None:
        handles = [
            Stateless(lambda name=f"verifier {i}": VerifierHandle(world, name))  # type: ignore[arg-type]
            for i in range(world.scenario.verifiers)
        ]
        self._turn = itertools.cycle(handles)

    async def judge(self, group: Group) -> list[tuple[Verdict, ...]]:
        return await next(self._turn).call("judge", group)
