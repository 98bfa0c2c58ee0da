"""One worker process seen from the parent: start, call with a deadline, kill.

Owns the socket and the turns on it. Refuses to own the process (process.py), retries and the
pool (service.py). Invariants: no call lasts longer than its deadline plus the kill; a worker
that says anything but the reply to the present request is killed; after ``close`` no process
that it started is left.
"""

import math
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

from rlpost.errors import InfrastructureError
from rlpost.verifiers.base import Declaration, VerifierConfig
from rlpost.verifiers.workers.channel import Channel, OversizedMessage
from rlpost.verifiers.workers.process import WorkerProcess
from rlpost.verifiers.workers.wire import (
    MAX_REPLY_BYTES,
    BadReply,
    decode_ready,
    decode_replies,
    encode_hello,
    encode_request,
    new_id,
)

START_TIMEOUT_S = 60.0  # interpreter, imports of the kinds and of the user's module
_DEATH_GRACE_S = 1.0  # for a worker that closed its socket to be seen dead


class SandboxClosed(InfrastructureError):
    """The sandbox was closed on purpose; calling again cannot help."""


class Sandbox:
    """A worker process that answers one request at a time; restarted after each failure.

    Not thread-safe, except for ``interrupt`` and ``abort``. On Linux the kernel kills the worker
    when the *thread* that started it ends: start it from a thread that lives as long as it should.
    """

    def __init__(self, configs: Mapping[str, VerifierConfig]) -> None:
        self._names = tuple(configs)
        self._hello_id = new_id()
        self._hello = encode_hello(configs, id=self._hello_id)
        self._lock = threading.Lock()  # guards _process and _closed against interrupt()
        self._process: WorkerProcess | None = None
        self._closed = False
        self._channel: Channel
        self._env = sorted({name for cfg in configs.values() for name in cfg.env})
        self._refusals: dict[str, str] | None = None  # None until the worker is ready
        self.declared: dict[str, Declaration] = {}  # of judges that declare something, when ready
        self.num_starts = 0
        self.num_lost = 0  # workers that died or had to be killed

    @property
    def alive(self) -> bool:
        process = self._process
        return process is not None and process.alive

    @property
    def pid(self) -> int | None:
        """The guard of the worker, and above everything that the worker starts."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the worker and return at once; ``call`` waits until it is ready.

        Raises:
            InfrastructureError: the operating system refused, or the sandbox is closed.
        """
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            if self._closed:
                ours.close()
                raise SandboxClosed("the verifier service is closed")
            try:
                self._process = WorkerProcess(theirs, env=self._env)
            except InfrastructureError:
                ours.close()
                raise
        self.num_starts += 1
        self._channel, self._refusals = Channel(ours), None

    def wait_ready(self) -> dict[str, str]:
        """Return, for each verifier that could not be built, why.

        Raises:
            InfrastructureError: the worker died or was not ready within START_TIMEOUT_S.
        """
        if not self.alive:
            self.kill()
            self.start()
        if self._refusals is None:
            deadline = time.monotonic() + START_TIMEOUT_S
            try:
                self._send(self._hello, deadline)
                frame = self._receive(deadline, max_bytes=MAX_REPLY_BYTES * len(self._names))
                self._refusals, self.declared = decode_ready(
                    frame, id=self._hello_id, names=self._names
                )
            except TimeoutError:
                process = self._process
                self.kill()
                tail = "" if process is None else process.printed()
                raise InfrastructureError(
                    f"a verifier worker was not ready after {START_TIMEOUT_S:.0f} s: does a "
                    f"module block when it is imported?{tail}"
                ) from None
            except BadReply as error:
                raise self._death(str(error)) from error
        return self._refusals

    def call(
        self,
        name: str,
        samples: Sequence[bytes],
        *,
        timeout_s: float,
        overdue_s: float = math.inf,
        on_overdue: Callable[[], None] = lambda: None,
    ) -> list[dict[str, Any]]:
        """Let verifier ``name`` judge samples that ``encode_sample`` made.

        Args:
            timeout_s: deadline, counted from when the worker is ready.
            overdue_s: when to call ``on_overdue``, if there is no reply by then.

        Returns:
            For each sample ``reward`` (None when ``error`` is set), ``error``, ``info`` and
            ``latency_s``, the time of the whole call.

        Raises:
            TimeoutError: the deadline passed; the worker has been killed.
            CallFailed: the verifier judges groups, and failed on this one.
            InfrastructureError: the worker died, or was killed for an impossible reply.
        """
        self.wait_ready()
        if self._channel.readable():  # a reply nobody asked for, or the end of the worker
            self.kill()
            self.wait_ready()
        id, start = new_id(), time.monotonic()
        try:
            self._send(encode_request(name, samples, id=id), start + timeout_s)
            frame = self._receive(
                start + timeout_s,
                max_bytes=MAX_REPLY_BYTES * len(samples),
                overdue=start + overdue_s,
                on_overdue=on_overdue,
            )
            replies = decode_replies(frame, id=id, num_samples=len(samples))
        except TimeoutError:
            self.kill()
            raise
        except BadReply as error:
            raise self._death(str(error)) from error
        latency_s = time.monotonic() - start
        return [reply | {"latency_s": latency_s} for reply in replies]

    def kill(self, *, grace_s: float = 0.0) -> str:
        """End the worker and every process that it started; say how it ended."""
        with self._lock:
            process, self._process = self._process, None
            self.num_lost += process is not None and not self._closed
        if process is None:
            return "it was not running"
        how = process.end(grace_s=grace_s)
        self._channel.close()
        return how

    def abort(self) -> None:
        """From another thread: make the call in progress fail."""
        with self._lock:
            if self._process is not None:
                self._process.begin_end()

    def interrupt(self) -> None:
        """From another thread: make the call in progress fail and refuse new starts."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.begin_end()

    def close(self) -> None:
        self.interrupt()
        self.kill()

    def _send(self, payload: bytes, deadline: float) -> None:
        try:
            self._channel.send(payload, timeout_s=max(1e-3, deadline - time.monotonic()))
        except TimeoutError:
            raise
        except OSError as error:
            raise self._death() from error

    def _receive(
        self,
        deadline: float,
        *,
        max_bytes: int,
        overdue: float = math.inf,
        on_overdue: Callable[[], None] = lambda: None,
    ) -> bytes:
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError
            if now >= overdue:
                on_overdue()
                overdue = math.inf
            assert self._process is not None
            channel, output = self._channel.fileno(), self._process.output()
            ready = wait([channel, *output], min(deadline, overdue) - now)
            if ready != [channel]:
                self._process.drain(1)  # a full pipe would block a worker that prints
            if channel not in ready:
                continue
            try:
                frame = self._channel.recv(timeout_s=deadline - now, max_bytes=max_bytes)
            except TimeoutError:
                raise
            except OversizedMessage as error:
                raise self._death(f"it sent {error}") from error
            except OSError as error:
                raise self._death() from error
            if frame is None:
                raise self._death()
            return frame

    def _death(self, fault: str | None = None) -> InfrastructureError:
        process = self._process
        how = self.kill(grace_s=0.0 if fault else _DEATH_GRACE_S)
        printed = "" if process is None else process.printed()
        if fault is not None:
            return InfrastructureError(f"worker killed ({fault}){printed}")
        return InfrastructureError(f"worker died ({how}){printed}")
