"""All responses to a prompt in one call: who is to blame when the call fails?

Owns the order of the attempts. Refuses to own workers and deadlines (service.py). Invariants: a
reward comes from a call that succeeded as a whole; a response that cannot be judged alone never
costs the others their verdicts, nor more time than a few deadlines of one response; there are at
most two calls for several responses.
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
    patience_s: float | None = None,
) -> list[Verdict]:
    """Return a verdict per sample, in order.

    When the call for all fails, each sample is judged alone: those that fail alone keep that
    verdict, and the others are judged together once more. The rewards given alone are not used,
    for a function may compare the responses with each other.

    Args:
        samples: the responses to one prompt.
        verifier: name, for the verdicts of a failure.
        together: judges several; raises ``TogetherFailed``; when cancelled, it ends its call.
        alone: judges one.
        patience_s: when to begin judging alone although the call for all goes on; its own
            deadline grows with the number of samples, and one of them may hang.
    """
    if len(samples) == 1:
        patience_s = None
    first = asyncio.ensure_future(together(samples))
    trial: asyncio.Future[list[Verdict]] | None = None
    try:
        await asyncio.wait([first], timeout=patience_s)
        if not first.done():
            trial = asyncio.ensure_future(_alone(samples, alone))
            await asyncio.wait([first, trial], return_when=asyncio.FIRST_COMPLETED)
        if trial is None or first.done() or all(map(_is_innocent, trial.result())):
            return await first
        verdicts = trial.result()
    except TogetherFailed as failure:
        if len(samples) == 1:
            return [failure.verdict(verifier)]
        verdicts = await (trial or _alone(samples, alone))
    finally:
        first.cancel()
        if trial is not None:
            trial.cancel()
    innocent = [i for i, verdict in enumerate(verdicts) if _is_innocent(verdict)]
    if not innocent:
        return verdicts
    try:
        again = await together([samples[i] for i in innocent])
    except TogetherFailed as failure:
        again = [failure.verdict(verifier) for _ in innocent]
    for i, verdict in zip(innocent, again, strict=True):
        verdicts[i] = verdict
    return verdicts


async def _alone(samples: Sequence[T], alone: Callable[[T], Awaitable[Verdict]]) -> list[Verdict]:
    return list(await asyncio.gather(*(alone(sample) for sample in samples)))


def _is_innocent(verdict: Verdict) -> bool:
    return verdict.error in (None, ABSTAINED)
