"""The verifier service: many samples in, one verdict per verifier and sample out.

Owns the bounded retry of infrastructure faults. Refuses to know about Ray (cluster/
wraps this class in an actor), about the weights of verdicts (combine.py) and about who works where
(pool.py). Invariants: ``judge`` keeps order and never raises for a sample; a failure is a verdict
without a reward; every verdict arrives within ``MAX_ATTEMPTS`` deadlines of its turn, or of each
of its three turns where a whole group is judged at once (groups.py).
"""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import tenacity

from rlpost.errors import DataError, InfrastructureError, UserError
from rlpost.types import Verdict
from rlpost.verifiers.base import TIMEOUT, Sample, VerifierConfig
from rlpost.verifiers.workers.groups import TogetherFailed, judge_together
from rlpost.verifiers.workers.pool import Pool
from rlpost.verifiers.workers.sandbox import Sandbox, SandboxClosed
from rlpost.verifiers.workers.wire import CallFailed, encode_sample

MAX_ATTEMPTS = 3  # of a sample whose worker dies
OVERDUE_SHARE = 0.2  # of one response's deadline, after which a spare worker may step in
SPARES_PER_WORKER = 3


class VerifierService:
    """A pool of ``num_workers`` sandboxes, each able to run every configured verifier.

    Plain and picklable in its arguments, so that it can live in this process or in an actor.
    ``judge`` may be awaited concurrently and from any event loop.

    A sample that hangs holds up no other: a call that has taken ``OVERDUE_SHARE`` of its
    verifier's ``timeout_s`` is overdue, and then the next call may begin on a spare worker.
    Only when more than ``spares_per_worker * num_workers`` calls are overdue at once do others
    wait for a deadline. Spares end with the calls that they stood in for.

    Example::

        service = VerifierService({"math": MathConfig()}, num_workers=2)
        [(verdict,)] = await service.judge([sample])
    """

    def __init__(
        self,
        configs: Mapping[str, VerifierConfig],
        num_workers: int,
        *,
        spares_per_worker: int = SPARES_PER_WORKER,
    ) -> None:
        """Start the workers in the background.

        Args:
            configs: name (as in ``Verdict.verifier``) -> config; ``check`` them first.
            num_workers: worker processes, >= 1.
            spares_per_worker: bound on the workers beyond ``num_workers`` that are started
                while calls are overdue.
        """
        if num_workers < 1:
            raise UserError(f"num_workers must be >= 1, got {num_workers}")
        if not configs:
            raise UserError("at least one verifier must be configured; choose verifier=math")
        self._configs = dict(configs)
        self._closed = False
        make = functools.partial(Sandbox, self._configs)
        make()  # says now what is wrong with the configs
        num_spares = num_workers * spares_per_worker
        self._pool = Pool(make, num_workers=num_workers, num_spares=num_spares)
        # A thread for every sandbox there can be. They live until close(), which is what a
        # sandbox asks of the thread that starts it.
        self._threads = ThreadPoolExecutor(num_workers + num_spares, thread_name_prefix="verifier")
        for _ in range(num_workers):
            self._threads.submit(self._pool.add)

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

    def alive(self) -> int:
        """Return the number of running worker processes."""
        return self._pool.alive()

    def num_lost(self) -> int:
        """Return how many workers died or had to be killed."""
        return self._pool.num_lost()

    def close(self) -> None:
        """Kill the workers; calls in progress end with an error verdict. Idempotent."""
        self._closed = True
        self._pool.interrupt()
        self._threads.shutdown(wait=True)
        self._pool.close()

    async def _judge_all(self, name: str, payloads: Sequence[bytes | str]) -> list[Verdict]:
        """Judge with one verifier; a text in the place of a sample says why it cannot be sent."""
        sendable = [payload for payload in payloads if isinstance(payload, bytes)]
        if self._configs[name].judges_groups and sendable:
            judged = await judge_together(
                sendable,
                verifier=name,
                together=functools.partial(self._together, name),
                alone=functools.partial(self._alone, name),
                patience_s=self._configs[name].timeout_s,
            )
        else:
            judged = await asyncio.gather(*(self._alone(name, each) for each in sendable))
        verdicts = iter(judged)
        return [
            next(verdicts) if isinstance(payload, bytes) else _failed(name, payload)
            for payload in payloads
        ]

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
        progress = _Progress()
        call = functools.partial(self._call, name, payloads, attempts=attempts, progress=progress)
        if self._closed:  # since ``judge`` looked: there are no threads left
            raise TogetherFailed("the verifier service is closed")
        try:
            return await loop.run_in_executor(self._threads, call)
        except asyncio.CancelledError:
            progress.cancel()
            raise

    def _call(
        self, name: str, payloads: Sequence[bytes], *, attempts: int, progress: "_Progress"
    ) -> list[Verdict]:
        call = tenacity.Retrying(
            retry=tenacity.retry_if_exception(progress.may_try_again),
            stop=tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        )
        timeout_s = self._configs[name].timeout_s
        try:
            with self._pool.turn() as turn, progress.on(turn.sandbox):
                replies = call(
                    turn.sandbox.call,
                    name,
                    payloads,
                    timeout_s=timeout_s * len(payloads),
                    overdue_s=timeout_s * OVERDUE_SHARE,
                    on_overdue=turn.overdue,
                )
        except TimeoutError:
            raise TogetherFailed(TIMEOUT, latency_s=timeout_s) from None
        except (CallFailed, InfrastructureError) as error:
            raise TogetherFailed(str(error)) from error
        return [
            Verdict(verifier=name, **(reply | {"latency_s": reply["latency_s"] / len(replies)}))
            for reply in replies
        ]


def _encoded(sample: Sample) -> bytes | str:
    """Return the sample as a worker reads it, or why it cannot be sent."""
    try:
        return encode_sample(sample)
    except DataError as error:
        return str(error)


def _failed(name: str, error: str) -> Verdict:
    return Verdict(verifier=name, reward=None, error=error)


class _Progress:
    """A call that a thread makes, for whoever waits for it and may cancel it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._cancelled = False

    @contextlib.contextmanager
    def on(self, sandbox: Sandbox) -> Iterator[None]:
        with self._lock:
            self._sandbox = sandbox
        try:
            yield
        finally:
            with self._lock:
                self._sandbox = None

    def cancel(self) -> None:
        """Make the call fail, if it has begun."""
        with self._lock:
            self._cancelled = True
            if self._sandbox is not None:
                self._sandbox.abort()

    def may_try_again(self, error: BaseException) -> bool:
        lost = isinstance(error, InfrastructureError) and not isinstance(error, SandboxClosed)
        return lost and not self._cancelled
