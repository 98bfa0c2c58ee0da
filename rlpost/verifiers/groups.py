"""All responses to a prompt in one call: who is to blame when the call fails?

Owns the order of the attempts. Refuses to own workers and deadlines (service.py). Invariants: a
reward comes from a call that succeeded as a whole; a response that cannot be judged alone never
costs the others their verdicts; there are at most two calls for several responses.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from rlpost.types import Verdict
from rlpost.verifiers.base import ABSTAINED

T = TypeVar("T")


class TogetherFailed(Exception):
    """One call for several responses failed.

    Attributes:
        error: as in ``Verdict.error``.
        latency_s: of the call, for each response.
    """

    def __init__(self, error: str, *, latency_s: float = 0.0) -> None:
        super().__init__(error)
        self.error = error
        self.latency_s = latency_s

    def verdict(self, verifier: str) -> Verdict:
        """Return what a response gets that was part of the call."""
        return Verdict(verifier=verifier, reward=None, error=self.error, latency_s=self.latency_s)


async def judge_together(
    samples: Sequence[T],
    *,
    verifier: str,
    together: Callable[[Sequence[T]], Awaitable[list[Verdict]]],
    alone: Callable[[T], Awaitable[Verdict]],
) -> list[Verdict]:
    """Return a verdict per sample, in order.

    When the call for all fails, each sample is judged alone: those that fail alone keep that
    verdict, and the others are judged together once more. The rewards given alone are not used,
    for a function may compare the responses with each other.

    Args:
        samples: the responses to one prompt.
        verifier: name, for the verdicts of a failure.
        together: judges several; raises ``TogetherFailed``.
        alone: judges one.
    """
    try:
        return await together(samples)
    except TogetherFailed as failure:
        if len(samples) == 1:
            return [failure.verdict(verifier)]
    verdicts = list(await asyncio.gather(*(alone(sample) for sample in samples)))
    innocent = [i for i, verdict in enumerate(verdicts) if verdict.error in (None, ABSTAINED)]
    if not innocent:
        return verdicts
    try:
        again = await together([samples[i] for i in innocent])
    except TogetherFailed as failure:
        again = [failure.verdict(verifier) for _ in innocent]
    for i, verdict in zip(innocent, again, strict=True):
        verdicts[i] = verdict
    return verdicts
