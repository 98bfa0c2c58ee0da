"""Prompts in, verified groups out.

Owns generation and verification of one group, its retries, and whole batches of groups.
Refuses to own which generator (dispatch.py), how verdicts become a reward (verifiers/combine.py)
and which prompts come next (producer.py). Invariants: every prompt handed in comes back exactly
once, as a group or as a failure with its reason; a prompt is given up only after it failed alone
on a generator.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain
from typing import Protocol

from rlpost.control.failures import Attempts, Budget, GenerationFailureConfig, backoff
from rlpost.errors import InfrastructureError, RequestAborted
from rlpost.rollout.interruption import Interruption
from rlpost.types import Episode, GenerationRequest, Group, Prompt, SamplingConfig, Verdict
from rlpost.verifiers.combine import Combination


class OnVerifierError(Enum):
    """What a failed verdict costs: the one sample, or its whole group.

    Dropping only the sample keeps more data but biases the group's baseline when failures
    depend on the response (long ones time out); dropping the group avoids that.
    """

    sample = "sample"
    group = "group"


class Answers(Protocol):
    """What finds somebody who answers a request: ``Dispatcher``, or ``Endpoint``."""

    async def generate(
        self,
        request: GenerationRequest,
        *,
        alone: bool = False,
        on_start: Callable[[int], None] = lambda version: None,
    ) -> tuple[Episode, ...]:
        """Sample the responses; see ``Dispatcher.generate``."""

    def cancel(self, key: str) -> Awaitable[list[int]]:
        """Cancel a request; see ``Dispatcher.cancel``."""


class GroupJudge(Protocol):
    """What gives verdicts: all verifiers, or all reward models."""

    async def judge(self, group: Group) -> list[tuple[Verdict, ...]]:
        """Return the verdicts on every episode, in order."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """One verified group and when it was done, on the collector's clock."""

    group: Group
    generated_s: float
    judged_s: float


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Result of one ``collect``: groups in prompt order, failures, and where time went."""

    groups: tuple[Group, ...]
    failed: Mapping[str, str] = field(default_factory=dict)  # uid -> reason
    generation_s: float = 0.0  # until the last response
    verification_s: float = 0.0  # after that, until the last verdict


def request_seed(run_seed: int, *key: object) -> int:
    """Derive a request's seed from the run's seed and the request's identity.

    Seeds of a group's children are consecutive; 62 hashed bits keep groups apart.
    """
    digest = hashlib.blake2b(repr((run_seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


class Collector:
    """Drives generators and judges.

    Args:
        dispatcher: finds a generator.
        judges: asked side by side; each gives verdicts under names of its own.
        combination: makes the reward of their verdicts.
        purpose: what the groups are for; tells requests of the same prompt apart.
        on_verifier_error: see ``OnVerifierError``.
        failures: attempts and back-off.
        budget: of failures in a row, shared by all who collect.
        interruption: of responses that get too long; None: they get as long as they may.
        finished: told of every verified group.
        clock: seconds.
    """

    def __init__(
        self,
        dispatcher: Answers,
        *,
        judges: Sequence[GroupJudge],
        combination: Combination,
        purpose: str,
        on_verifier_error: OnVerifierError = OnVerifierError.sample,
        failures: GenerationFailureConfig,
        budget: Budget,
        interruption: Interruption | None = None,
        finished: Callable[[str], None] = lambda what: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatcher = dispatcher
        self._judges = judges
        self._combination = combination
        self._purpose = purpose
        self._on_verifier_error = on_verifier_error
        self._failures = failures
        self._attempts = Attempts(failures.attempts)
        self._budget = budget
        self._interruption = interruption
        # uid -> its requests' keys -> response tokens they go on from
        self._under_way: dict[str, dict[str, int]] = {}
        self._finished = finished
        self._clock = clock

    @property
    def is_judging(self) -> bool:
        """Whether anyone judges; else no response has a reward."""
        return bool(self._judges)

    async def collect(
        self,
        prompts: Sequence[Prompt],
        *,
        num_samples: int,
        sampling: SamplingConfig,
        seed: int,
    ) -> Collection:
        """Sample and verify ``num_samples`` responses per prompt.

        Raises:
            RunFailed: the budget of failures is used up.
        """
        start_s = self._clock()
        results = await asyncio.gather(
            *(
                self.group(prompt, num_samples=num_samples, sampling=sampling, seed=seed)
                for prompt in prompts
            ),
            return_exceptions=True,
        )
        done: list[Collected] = []
        failed = {}
        for prompt, result in zip(prompts, results, strict=True):
            if isinstance(result, InfrastructureError):
                failed[prompt.uid] = str(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                done.append(result)
        generated_s = max((each.generated_s for each in done), default=start_s)
        return Collection(
            groups=tuple(each.group for each in done),
            failed=failed,
            generation_s=generated_s - start_s,
            verification_s=self._clock() - generated_s,
        )

    async def group(
        self,
        prompt: Prompt,
        *,
        num_samples: int,
        sampling: SamplingConfig,
        seed: int,
        on_start: Callable[[int], None] = lambda version: None,
    ) -> Collected:
        """Sample and verify one group, trying again when infrastructure fails.

        Args:
            prompt: what to answer.
            num_samples: responses.
            sampling: how they are sampled.
            seed: the run's.
            on_start: told, for every attempt, the version it begins with.

        Raises:
            InfrastructureError: the prompt is given up.
            RunFailed: the budget of failures is used up.
        """
        request = GenerationRequest(
            key=f"{self._purpose}/{prompt.uid}",
            prompt=prompt,
            num_samples=num_samples,
            seed=request_seed(seed, prompt.uid),
            sampling=sampling,
        )
        try:
            while True:
                try:
                    return await self._attempt(request, on_start)
                except RequestAborted:
                    continue
                except InfrastructureError as error:
                    # Not one of the run's failures yet: a process that dies fails many at once.
                    if not self._attempts.failed(prompt.uid):
                        self._budget.spend(f"prompt {prompt.uid}: {error}")
                        raise
                await asyncio.sleep(
                    backoff(self._attempts.count(prompt.uid), config=self._failures)
                )
        finally:
            self._attempts.ended(prompt.uid)

    def cancel(self, uid: str) -> Awaitable[list[int]]:
        """Give up a prompt's requests; see ``Dispatcher.cancel``."""
        requests = self._under_way.get(uid, {})
        return _lengths([(n, self._dispatcher.cancel(key)) for key, n in requests.items()])

    async def _attempt(
        self, request: GenerationRequest, on_start: Callable[[int], None]
    ) -> Collected:
        episodes = await self._sample(request, on_start)
        generated_s = self._clock()
        group = await self._verify(Group(prompt=request.prompt, episodes=episodes))
        self._budget.progress()
        self._finished(f"group {request.key}")
        return Collected(group=group, generated_s=generated_s, judged_s=self._clock())

    async def _sample(
        self, request: GenerationRequest, on_start: Callable[[int], None]
    ) -> tuple[Episode, ...]:
        """Generate; where a response has to be interrupted, in two requests."""
        interruption = self._interruption
        if interruption is None:
            return await self._request(request, on_start)
        firsts = await self._request(interruption.first(request), on_start)
        ended = await asyncio.gather(
            *(self._ended(request, each, interruption) for each in firsts),
            return_exceptions=True,  # nothing of an attempt goes on when it is over
        )
        for each in ended:
            if isinstance(each, BaseException):
                raise each
        return tuple(each for each in ended if isinstance(each, Episode))

    async def _ended(
        self, request: GenerationRequest, first: Episode, interruption: Interruption
    ) -> Episode:
        """Return ``first``, interrupted if it has not ended."""
        if not first.truncated:
            return first
        seed = request_seed(request.seed, "interrupted", first.sample)
        (continuation,) = await self._request(
            interruption.continuation(request, first, seed=seed), tokens=first.num_sampled
        )
        return interruption.joined(first, continuation)

    async def _request(
        self,
        request: GenerationRequest,
        on_start: Callable[[int], None] = lambda version: None,
        *,
        tokens: int = 0,
    ) -> tuple[Episode, ...]:
        """One request to some generator, from ``tokens`` of the response on.

        The last attempt of a prompt runs alone.
        """
        uid = request.prompt.uid
        last_try = self._attempts.count(uid) == self._failures.attempts - 1
        requests = self._under_way.setdefault(uid, {})
        requests[request.key] = tokens
        try:
            return await self._dispatcher.generate(
                request, alone=last_try and self._failures.attempts > 1, on_start=on_start
            )
        finally:
            del requests[request.key]
            if not requests:
                self._under_way.pop(uid, None)

    async def _verify(self, group: Group) -> Group:
        columns = await asyncio.gather(*(judge.judge(group) for judge in self._judges))
        episodes: tuple[Episode, ...] = tuple(
            self._rewarded(episode, chain(*parts))
            for episode, *parts in zip(group.episodes, *columns, strict=True)
        )
        if self._on_verifier_error is OnVerifierError.group and any(
            e.reward is None for e in episodes
        ):
            episodes = tuple(replace(e, reward=None) for e in episodes)
        return replace(group, episodes=episodes)

    def _rewarded(self, episode: Episode, verdicts: Iterable[Verdict]) -> Episode:
        usable, reward = self._combination.judged(tuple(verdicts))
        return replace(episode, verdicts=usable, reward=reward)


async def _lengths(cancelled: Sequence[tuple[int, Awaitable[list[int]]]]) -> list[int]:
    """Tokens of the responses of cancelled requests, with those they went on from."""
    return [before + length for before, lengths in cancelled for length in await lengths]
