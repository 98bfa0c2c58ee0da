"""Small objects that implement our protocols, for tests of what drives them."""

import asyncio
from collections.abc import Sequence

from episodes import episode, trajectory

from rlpost.control.concurrency import Load
from rlpost.control.fleet import Fleet
from rlpost.errors import NoAnswer, WeightPushError
from rlpost.rollout.protocol import GeneratorInfo, Pulse
from rlpost.types import Episode, GenerationRequest, Group, Prompt, Verdict
from rlpost.weights.kernel_digest import KernelDigest
from rlpost.weights.transports.protocol import Locator, Seat


def prompt(uid: str = "0:0", tokens: Sequence[int] = (5, 6, 7)) -> Prompt:
    return Prompt(uid=uid, token_ids=tuple(tokens), text=f"prompt {uid}")


def seat(memory: str = "here", *, num_workers: int = 1, gpus: tuple[str, ...] = ()) -> Seat:
    return Seat(memory=memory, num_workers=num_workers, gpus=gpus)


class FakeGenerator:
    """Answers with tokens derived from the seed; its log-probs are ``-version``.

    Of ``push_contract.py`` it keeps ``what_the_bus_relies_on``; it holds no weights for the rest.
    """

    def __init__(
        self,
        *,
        broken_load: bool = False,
        failures: int = 0,
        hang: str = "",
        flipped_loads: int = 0,
    ) -> None:
        self.version = 0
        self.loaded = 0
        self.calls: list[str] = []
        self.num_requests = 0
        self._broken_load = broken_load
        self._failures = failures
        self._hang = hang
        self._flipped_loads = flipped_loads  # so many get a wrong bit that no probe sees

    async def _enter(self, verb: str) -> None:
        self.calls.append(verb)
        if verb == self._hang:
            await asyncio.sleep(3600)

    async def setup(self) -> GeneratorInfo:
        return GeneratorInfo(
            max_model_len=64, dtype="float32", seat=seat(), processes=(), host="here"
        )

    async def generate(self, request: GenerationRequest) -> tuple[Episode, ...]:
        self.num_requests += 1
        if self._failures:
            self._failures -= 1
            raise NoAnswer("fake engine does not answer")
        await asyncio.sleep(0)
        return tuple(
            episode(
                trajectory(
                    ((request.seed + k) % 97, 2),
                    prompt_ids=request.prompt.token_ids,
                    versions=self.version,
                    logprobs=(-1.0, -0.5),
                ),
                uid=request.prompt.uid,
                sample=k,
                text=str((request.seed + k) % 97),
                seed=request.seed + k,
            )
            for k in range(request.num_samples)
        )

    async def sleep(self) -> None:
        await self._enter("sleep")

    async def begin_push(self, version: int) -> None:
        await self._enter("begin")

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        await self._enter("receive")
        if locator.where.get("damaged"):
            raise WeightPushError("checksum differs")

    async def load(self, version: int) -> None:
        await self._enter("load")
        self.loaded = version
        self.is_flipped = self._flipped_loads > 0
        self._flipped_loads -= 1

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        await self._enter("logprobs")
        value = -float(self.loaded) - (0.5 if self._broken_load else 0.0)
        return [[value] * (len(s) - 1) for s in sequences]

    async def kernel_digest(self) -> KernelDigest:
        await self._enter("digest")
        held = f"{self.loaded}{' with a wrong bit' if self.is_flipped else ''}"
        return KernelDigest(layouts=("fake",), contents=(held,))

    async def commit_push(self, version: int) -> None:
        await self._enter("commit")
        self.version = version

    async def abort_push(self, version: int) -> int:
        self.calls.append("abort")
        self.loaded = self.version
        return self.version

    async def cancel(self, key: str) -> list[int]:
        return []

    async def health(self) -> Pulse:
        await self._enter("health")
        return Pulse(version=self.version, load=Load(kv_use=0.0, num_preempted=0))

    async def close(self) -> None:
        self.calls.append("close")

    async def kill(self) -> None:
        self.calls.append("kill")


def serving_fleet(names: Sequence[str], *, version: int = 0) -> Fleet:
    """A fleet whose members have booted and, with a version, finished a push of it."""
    fleet = Fleet(list(names))
    for name in names:
        fleet.booted(name)
        if version:
            fleet.synced(name, incarnation=0, version=version)
    return fleet


class FakePublisher:
    """A trainer whose log-probs are ``-version`` of what it staged last."""

    def __init__(self, *, damaged: bool = False) -> None:
        self.damaged = damaged
        self.staged: list[int] = []
        self.released: list[int] = []

    async def stage(self, version: int, *, seats: Sequence[Seat]) -> Locator:
        self.staged.append(version)
        where = {"damaged": self.damaged}
        return Locator(
            transport="fake",
            manifest={"version": version, "entries": [{"size_bytes": 8}]},
            where=where,
        )

    async def announce_again(self, *, seats: Sequence[Seat]) -> Locator:
        raise AssertionError("fake payloads can be fetched at any time")

    async def send(self) -> None:
        await asyncio.sleep(0)

    async def release(self, version: int) -> None:
        self.released.append(version)

    async def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-float(self.staged[-1])] * (len(s) - 1) for s in sequences]


class FakeJudge:
    """Reward 1 for an even first token, 0 for an odd one; fails on multiples of ``fail_on``."""

    def __init__(self, *, fail_on: int | None = None) -> None:
        self.fail_on = fail_on

    async def judge(self, group: Group) -> list[tuple[Verdict, ...]]:
        judged: list[tuple[Verdict, ...]] = []
        for each in group.episodes:
            token = each.response_ids[0]
            if self.fail_on and token % self.fail_on == 0:
                judged.append((Verdict(verifier="fake", reward=None, error="timeout"),))
            else:
                reward = float(token % 2 == 0)
                judged.append((Verdict(verifier="fake", reward=reward),))
        return judged
