"""The verifier service: many samples in, one verdict per verifier and sample out.

Owns the pool of sandboxes, the bounded retry of infrastructure faults and the counts.
Refuses to know about Ray (cluster/ wraps this class in an actor) and about weights
(combine.py). Invariants: ``judge`` keeps order and never raises for a sample; a failure is a
verdict without a reward; every verdict arrives within ``MAX_ATTEMPTS`` deadlines of its turn, or
of each of its three turns where a whole group is judged at once (groups.py).
"""

import asyncio
import functools
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import tenacity

from rlpost.errors import DataError, InfrastructureError, UserError
from rlpost.types import Verdict
from rlpost.verifiers.base import ABSTAINED, TIMEOUT, Sample, VerifierConfig
from rlpost.verifiers.groups import TogetherFailed, judge_together
from rlpost.verifiers.sandbox import Sandbox, SandboxClosed
from rlpost.verifiers.wire import CallFailed, encode_sample

MAX_ATTEMPTS = 3  # of a sample whose worker dies


@dataclass(frozen=True, kw_only=True)
class VerifierStats:
    """Counts since the service started; ``errors`` holds neither time-outs nor abstentions."""

    calls: int = 0
    errors: int = 0
    timeouts: int = 0
    abstained: int = 0
    latency_s: float = 0.0  # sum over calls, queueing excluded


class VerifierService:
    """A pool of ``num_workers`` sandboxes, each able to run every configured verifier.

    Plain and picklable in its arguments, so that it can live in this process or in an actor.
    ``judge`` may be awaited concurrently and from any event loop.

    Example::

        service = VerifierService({"math": MathConfig()}, num_workers=2)
        [(verdict,)] = await service.judge([sample])
    """

    def __init__(
        self,
        configs: Mapping[str, VerifierConfig],
        num_workers: int,
        *,
        memory_limit_mb: int | None = None,
    ) -> None:
        """Start the workers in the background.

        Args:
            configs: name (as in ``Verdict.verifier``) -> config; ``check`` them first.
            num_workers: worker processes, >= 1.
            memory_limit_mb: address space of one worker in MiB; a judge that asks for more
                gets a MemoryError.
        """
        if num_workers < 1:
            raise UserError(f"num_workers must be >= 1, got {num_workers}")
        if not configs:
            raise UserError("at least one verifier must be configured; choose verifier=math")
        self._configs = dict(configs)
        self._closed = False
        self._stats = {name: VerifierStats() for name in configs}
        self._sandboxes = [
            Sandbox(configs, memory_limit_mb=memory_limit_mb) for _ in range(num_workers)
        ]
        self._idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        # As many threads as sandboxes, so a job that runs finds an idle sandbox. They live
        # until close(), which is what a sandbox asks of the thread that starts it.
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="verifier")
        for sandbox in self._sandboxes:
            self._threads.submit(self._release, sandbox)

    async def judge(self, samples: Sequence[Sample]) -> list[tuple[Verdict, ...]]:
        """Judge every sample with every verifier.

        Args:
            samples: the responses to one prompt: verifiers that judge groups see all of them.

        Returns:
            One tuple per sample, in order; its verdicts are in the order of the configs.

        Raises:
            InfrastructureError: the service is closed.
        """
        if self._closed:
            raise InfrastructureError("the verifier service is closed")
        payloads = [_encoded(sample) for sample in samples]
        columns = await asyncio.gather(*(self._judge_all(name, payloads) for name in self._configs))
        return list(zip(*columns, strict=True))

    def stats(self) -> dict[str, VerifierStats]:
        """Return the counts per verifier."""
        return dict(self._stats)

    def alive(self) -> int:
        """Return the number of running worker processes."""
        return sum(sandbox.alive for sandbox in self._sandboxes)

    def num_restarts(self) -> int:
        """Return how often a worker had to be replaced."""
        return sum(max(0, sandbox.num_starts - 1) for sandbox in self._sandboxes)

    def close(self) -> None:
        """Kill the workers; calls in progress end with an error verdict. Idempotent."""
        self._closed = True
        for sandbox in self._sandboxes:
            sandbox.interrupt()
        self._threads.shutdown(wait=True)
        for sandbox in self._sandboxes:
            sandbox.close()

    async def _judge_all(self, name: str, payloads: Sequence[bytes | str]) -> list[Verdict]:
        """Judge with one verifier; a text in the place of a sample says why it cannot be sent."""
        sendable = [payload for payload in payloads if isinstance(payload, bytes)]
        if self._configs[name].judges_groups and sendable:
            judged = await judge_together(
                sendable,
                verifier=name,
                together=functools.partial(self._together, name),
                alone=functools.partial(self._alone, name),
            )
        else:
            judged = await asyncio.gather(*(self._alone(name, each) for each in sendable))
        verdicts = iter(judged)
        ordered = [
            next(verdicts) if isinstance(payload, bytes) else _failed(name, payload)
            for payload in payloads
        ]
        for verdict in ordered:
            self._count(verdict)
        return ordered

    async def _alone(self, name: str, payload: bytes) -> Verdict:
        try:
            [verdict] = await self._together(name, [payload], attempts=MAX_ATTEMPTS)
        except TogetherFailed as failure:
            return failure.verdict(name)
        return verdict

    async def _together(
        self, name: str, payloads: Sequence[bytes], *, attempts: int = 1
    ) -> list[Verdict]:
        loop = asyncio.get_running_loop()
        call = functools.partial(self._call, name, payloads, attempts=attempts)
        return await loop.run_in_executor(self._threads, call)

    def _call(self, name: str, payloads: Sequence[bytes], *, attempts: int) -> list[Verdict]:
        sandbox = self._idle.get()  # one per thread: waits at most for a worker being spawned
        call = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            stop=tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        )
        timeout_s = self._configs[name].timeout_s
        try:
            replies = call(sandbox.call, name, payloads, timeout_s=timeout_s * len(payloads))
        except TimeoutError:
            raise TogetherFailed(TIMEOUT, latency_s=timeout_s) from None
        except (CallFailed, InfrastructureError) as error:
            raise TogetherFailed(str(error)) from error
        finally:
            self._release(sandbox)
        return [
            Verdict(verifier=name, **(reply | {"latency_s": reply["latency_s"] / len(replies)}))
            for reply in replies
        ]

    def _release(self, sandbox: Sandbox) -> None:
        try:
            if not sandbox.alive:
                sandbox.start()  # boots while nobody waits for it
        except InfrastructureError:
            pass  # the next call starts it again and reports why it cannot
        finally:
            self._idle.put(sandbox)

    def _count(self, verdict: Verdict) -> None:
        old = self._stats[verdict.verifier]
        failed = verdict.error is not None and verdict.error not in (TIMEOUT, ABSTAINED)
        self._stats[verdict.verifier] = replace(
            old,
            calls=old.calls + 1,
            errors=old.errors + failed,
            timeouts=old.timeouts + (verdict.error == TIMEOUT),
            abstained=old.abstained + (verdict.error == ABSTAINED),
            latency_s=old.latency_s + verdict.latency_s,
        )


def _encoded(sample: Sample) -> bytes | str:
    """Return the sample as a worker reads it, or why it cannot be sent."""
    try:
        return encode_sample(sample)
    except DataError as error:
        return str(error)


def _failed(name: str, error: str) -> Verdict:
    return Verdict(verifier=name, reward=None, error=error)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, InfrastructureError) and not isinstance(error, SandboxClosed)
