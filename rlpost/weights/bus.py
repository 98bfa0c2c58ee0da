"""A push is a transaction: begin, transfer, load, probe, then commit or abort everywhere.

Owns versions, deadlines and the decision. Refuses to own bytes (transports/, publisher.py)
and kernels (vllm_plugin.py). Invariants: versions strictly increase and are never reused,
not even after an abort; every wait has a deadline and its error names who is missing; a
version is served only after trainer and generator agreed on the probe's log-probs.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlpost.errors import InfrastructureError, WeightPushError
from rlpost.weights.transports.protocol import Locator

FLOAT32_MAX_DIFF = 1e-3
REDUCED_MEAN_DIFF = 0.1


class Publisher(Protocol):
    """The trainer, as the bus sees it."""

    async def stage(self, version: int) -> Locator:
        """Write the current weights as ``version``."""

    async def send(self) -> None:
        """Take part in the transfer."""

    async def release(self, version: int) -> None:
        """Free the payload of ``version``."""

    async def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob (nats, temperature 1) of every token after the first."""


class Receiver(Protocol):
    """A generator, as the bus sees it; a subset of ``rollout.protocol.Generator``."""

    async def begin_push(self, version: int) -> None: ...
    async def receive(self, locator: Locator, *, first_rank: int) -> None: ...
    async def load(self, version: int) -> None: ...
    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]: ...
    async def commit_push(self, version: int) -> None: ...
    async def abort_push(self, version: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class PushReport:
    """What one committed push cost and how well both sides agree."""

    version: int
    size_bytes: int
    push_s: float  # everything
    stage_s: float  # trainer writes the payload
    load_s: float  # generators fetch, verify and load
    probe_s: float
    probe_logprob_diff_mean: float  # nats
    probe_logprob_diff_max: float

    def metrics(self) -> dict[str, float]:
        return {
            "weights/version": float(self.version),
            "weights/bytes": float(self.size_bytes),
            "weights/push_s": self.push_s,
            "weights/stage_s": self.stage_s,
            "weights/load_s": self.load_s,
            "weights/probe_s": self.probe_s,
            "weights/probe_logprob_diff_mean": self.probe_logprob_diff_mean,
            "weights/probe_logprob_diff_max": self.probe_logprob_diff_max,
        }


class WeightBus:
    """Pushes policy versions from one trainer group to all generators.

    Args:
        publisher: the trainer group.
        receivers: name -> generator.
        workers: name -> number of processes that receive, in the same order.
        probe: token ids of the fixed probe sequences, each at least 2 long.
        exact: whether both sides compute in float32.
        max_diff: overrides the bound of the probe, in nats.
        timeout_s: deadline of each phase.
        last_version: the newest version ever used by this run.
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        receivers: Mapping[str, Receiver],
        workers: Mapping[str, int],
        probe: Sequence[Sequence[int]],
        exact: bool,
        max_diff: float | None = None,
        timeout_s: float = 120.0,
        last_version: int = 0,
    ) -> None:
        self._publisher = publisher
        self._receivers = dict(receivers)
        ranks = itertools.accumulate((workers[n] for n in self._receivers), initial=1)
        self._first_rank = dict(zip(self._receivers, ranks, strict=False))
        self._probe = [list(s) for s in probe]
        self._exact = exact
        self._max_diff = max_diff or (FLOAT32_MAX_DIFF if exact else REDUCED_MEAN_DIFF)
        self._timeout_s = timeout_s
        self.last_version = last_version

    async def publish(self) -> PushReport:
        """Push the trainer's current weights as the next version.

        Raises:
            WeightPushError: refused or late; every reachable generator is back on its old
                version and the version number is spent.
        """
        version = self.last_version = self.last_version + 1
        start = time.perf_counter()
        try:
            locator = await self._deadline({"trainer": self._publisher.stage(version)}, "stage")
            staged = time.perf_counter()
            await self._transfer(version, locator["trainer"])
            loaded = time.perf_counter()
            mean_diff, max_diff = await self._compare_probes(version)
            probed = time.perf_counter()
            await self._each(lambda name, r: r.commit_push(version), "commit")
        except InfrastructureError as error:
            await self._abort(version, error)
            raise WeightPushError(f"push of version {version} refused: {error}") from error
        finally:
            await self._publisher.release(version)
        return PushReport(
            version=version,
            size_bytes=sum(e["size_bytes"] for e in locator["trainer"].manifest["entries"]),
            push_s=time.perf_counter() - start,
            stage_s=staged - start,
            load_s=loaded - staged,
            probe_s=probed - loaded,
            probe_logprob_diff_mean=mean_diff,
            probe_logprob_diff_max=max_diff,
        )

    async def _transfer(self, version: int, locator: Locator) -> None:
        await self._each(lambda name, r: r.begin_push(version), "begin")
        calls: dict[str, Awaitable[Any]] = {
            name: r.receive(locator, first_rank=self._first_rank[name])
            for name, r in self._receivers.items()
        }
        await self._deadline({**calls, "trainer": self._publisher.send()}, "transfer")
        await self._each(lambda name, r: r.load(version), "load")

    async def _compare_probes(self, version: int) -> tuple[float, float]:
        # One after the other: on a shared CPU two engines at once take far longer than twice one.
        trainer = self._publisher.probe_logprobs(self._probe)
        truth = (await self._deadline({"trainer": trainer}, "probe"))["trainer"]
        calls = {name: r.logprobs(self._probe) for name, r in self._receivers.items()}
        answers = await self._deadline(calls, "probe")
        worst_mean = worst_max = 0.0
        for name, answer in answers.items():
            mean, largest = logprob_difference(answer, truth)
            if not (largest if self._exact else mean) <= self._max_diff:
                raise WeightPushError(
                    f"the probe of {name} differs from the trainer's log-probs by {mean:.2g} on "
                    f"average, {largest:.2g} at most (bound {self._max_diff:.2g}): the version "
                    "was not loaded faithfully"
                )
            worst_mean, worst_max = max(worst_mean, mean), max(worst_max, largest)
        return worst_mean, worst_max

    async def _abort(self, version: int, cause: Exception) -> None:
        calls = {name: r.abort_push(version) for name, r in self._receivers.items()}
        tasks = {name: asyncio.ensure_future(call) for name, call in calls.items()}
        await asyncio.wait(tasks.values(), timeout=self._timeout_s)
        stuck = [n for n, t in tasks.items() if not t.done() or t.exception() is not None]
        for task in tasks.values():
            task.cancel()
        if stuck:
            raise InfrastructureError(
                f"{', '.join(stuck)} could not go back to the old weights after: {cause}"
            ) from cause

    async def _each(self, call: Callable[[str, Receiver], Awaitable[Any]], phase: str) -> None:
        await self._deadline({n: call(n, r) for n, r in self._receivers.items()}, phase)

    async def _deadline(self, calls: Mapping[str, Awaitable[Any]], phase: str) -> dict[str, Any]:
        """Await all; raise the first failure, or name who missed the deadline."""
        tasks = {name: asyncio.ensure_future(call) for name, call in calls.items()}
        done, late = await asyncio.wait(
            tasks.values(), timeout=self._timeout_s, return_when=asyncio.FIRST_EXCEPTION
        )
        failed = [(n, t.exception()) for n, t in tasks.items() if t in done and t.exception()]
        for task in late:
            task.cancel()
        if failed:
            name, error = failed[0]
            assert error is not None
            if not isinstance(error, InfrastructureError):
                raise error
            raise WeightPushError(f"{name} failed in {phase}: {error}") from error
        if late:
            missing = ", ".join(n for n, t in tasks.items() if t in late)
            raise WeightPushError(f"{missing} did not finish {phase} in {self._timeout_s:g} s")
        return {name: task.result() for name, task in tasks.items()}


def logprob_difference(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """Return the mean and the largest absolute difference in nats; NaN counts as infinite."""
    gaps = [
        abs(a - b)
        for mine, other in zip(ours, theirs, strict=True)
        for a, b in zip(mine, other, strict=True)
    ]
    gaps = [gap if gap == gap else float("inf") for gap in gaps]
    return sum(gaps) / len(gaps), max(gaps)
