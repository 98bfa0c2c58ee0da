"""Prompts in, verified groups out.

Owns dispatch over generators, retries, and the order of results. Refuses to own what the
numbers mean and which prompts come next. Invariant: every prompt handed in comes back
exactly once, as a group or as a failure with its reason; a group is verified while others
are still being generated.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from rlpost.errors import InfrastructureError
from rlpost.rollout.protocol import Generator
from rlpost.types import GenerationRequest, Group, Prompt, SamplingConfig, Trajectory, Verdict


class OnVerifierError(Enum):
    """What a failed verdict costs: the one sample, or its whole group.

    Dropping only the sample keeps more data but biases the group's baseline when failures
    depend on the response (long ones time out); dropping the group avoids that.
    """

    sample = "sample"
    group = "group"


class Judge(Protocol):
    """Verifier service, as the collector sees it."""

    async def judge(self, group: Group) -> list[tuple[tuple[Verdict, ...], float | None]]:
        """Return verdicts and combined reward of every trajectory, in order."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Result of one ``collect``: groups in prompt order, failures, and where time went."""

    groups: tuple[Group, ...]
    failed: Mapping[str, str] = field(default_factory=dict)  # uid -> reason
    generation_s: float = 0.0  # until the last response
    verification_s: float = 0.0  # after that, until the last verdict

    @property
    def num_tokens(self) -> int:
        return sum(len(t.response_ids) for g in self.groups for t in g.trajectories)


def request_seed(run_seed: int, *key: object) -> int:
    """Derive a request's seed from the run's seed and the request's identity.

    Seeds of a group's children are consecutive; 62 hashed bits keep groups apart.
    """
    digest = hashlib.blake2b(repr((run_seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


class Collector:
    """Drives generators and verifiers for a batch of prompts.

    Args:
        generators: name -> engine; a request goes to the one with the fewest outstanding.
        judge: verifier service.
        on_verifier_error: see ``OnVerifierError``.
        attempts: how often a request is tried when infrastructure fails.
    """

    def __init__(
        self,
        generators: Mapping[str, Generator],
        *,
        judge: Judge,
        on_verifier_error: OnVerifierError = OnVerifierError.sample,
        attempts: int = 3,
    ) -> None:
        self._generators = dict(generators)
        self._outstanding = dict.fromkeys(self._generators, 0)
        self._judge = judge
        self._on_verifier_error = on_verifier_error
        self._attempts = attempts

    async def collect(
        self,
        prompts: Sequence[Prompt],
        *,
        num_samples: int,
        sampling: SamplingConfig,
        seed: int,
    ) -> Collection:
        """Sample and verify ``num_samples`` responses per prompt."""
        start = time.perf_counter()
        generated_at = [start]

        async def one(prompt: Prompt) -> Group:
            request = GenerationRequest(
                prompt=prompt,
                num_samples=num_samples,
                seed=request_seed(seed, prompt.uid),
                sampling=sampling,
            )
            trajectories = await self._generate(request)
            generated_at.append(time.perf_counter())
            return await self._verify(Group(prompt=prompt, trajectories=trajectories))

        results = await asyncio.gather(*map(one, prompts), return_exceptions=True)
        groups, failed = [], {}
        for prompt, result in zip(prompts, results, strict=True):
            if isinstance(result, InfrastructureError):
                failed[prompt.uid] = str(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                groups.append(result)
        return Collection(
            groups=tuple(groups),
            failed=failed,
            generation_s=max(generated_at) - start,
            verification_s=time.perf_counter() - max(generated_at),
        )

    async def _generate(self, request: GenerationRequest) -> tuple[Trajectory, ...]:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(InfrastructureError),
            stop=stop_after_attempt(self._attempts),
            wait=wait_exponential(multiplier=0.2, max=5),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                name = min(self._outstanding, key=self._outstanding.__getitem__)
                self._outstanding[name] += request.num_samples
                try:
                    return await self._generators[name].generate(request)
                finally:
                    self._outstanding[name] -= request.num_samples
        raise AssertionError("unreachable: the last attempt re-raises")

    async def _verify(self, group: Group) -> Group:
        judged = await self._judge.judge(group)
        trajectories = tuple(
            replace(trajectory, verdicts=verdicts, reward=reward)
            for trajectory, (verdicts, reward) in zip(group.trajectories, judged, strict=True)
        )
        if self._on_verifier_error is OnVerifierError.group and any(
            t.reward is None for t in trajectories
        ):
            trajectories = tuple(replace(t, reward=None) for t in trajectories)
        return replace(group, trajectories=trajectories)
