"""One worker process seen from the parent: start, call with a deadline, kill.

Owns the process, its socket and what it prints. Refuses to own retries and the pool
(service.py). Invariants: no call lasts longer than its deadline plus the kill; what a worker
prints never reaches the channel or the console; after ``close`` no process of the worker's
group is left.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import rlpost
from rlpost.errors import InfrastructureError
from rlpost.verifiers.base import VerifierConfig
from rlpost.verifiers.channel import Channel, OversizedMessage
from rlpost.verifiers.wire import (
    MAX_REPLY_BYTES,
    BadReply,
    decode_refusals,
    decode_replies,
    encode_hello,
    encode_request,
    new_id,
)

START_TIMEOUT_S = 60.0  # interpreter, imports of the kinds and of the user's module
_KILL_TIMEOUT_S = 10.0  # SIGKILL takes milliseconds unless the kernel itself waits
_OUTPUT_TAIL = 2000  # bytes of a worker's last output, quoted when it dies
_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "RAYON_NUM_THREADS",
    ),
    "1",
)


class SandboxClosed(InfrastructureError):
    """The sandbox was closed on purpose; calling again cannot help."""


class Sandbox:
    """A worker process that answers one request at a time; restarted after each failure.

    Not thread-safe, except for ``interrupt``. On Linux the kernel kills the worker when the
    *thread* that started it ends, so start it from a thread that lives as long as it should.
    """

    def __init__(
        self, configs: Mapping[str, VerifierConfig], *, memory_limit_mb: int | None = None
    ) -> None:
        self._names = tuple(configs)
        self._hello_id = new_id()
        self._hello = encode_hello(configs, id=self._hello_id, memory_limit_mb=memory_limit_mb)
        self._lock = threading.Lock()  # guards _process and _closed against interrupt()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._channel: Channel
        self._output: Any = None  # raw, non-blocking; None once the worker closed it
        self._tail = b""
        self._refusals: dict[str, str] | None = None  # None until the worker is ready
        self.num_starts = 0

    @property
    def alive(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

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
                self._process = _spawn(theirs)
            except OSError as error:
                ours.close()
                raise InfrastructureError(f"cannot start a verifier worker: {error}") from error
        self.num_starts += 1
        self._channel, self._refusals, self._tail = Channel(ours), None, b""
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)

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
                self._refusals = decode_refusals(frame, id=self._hello_id, names=self._names)
            except TimeoutError:
                tail = self._printed()
                self.kill()
                raise InfrastructureError(
                    f"a verifier worker was not ready after {START_TIMEOUT_S:.0f} s: does a "
                    f"module block when it is imported?{tail}"
                ) from None
            except BadReply as error:
                raise self._death(str(error)) from error
        return self._refusals

    def call(
        self, name: str, samples: Sequence[bytes], *, timeout_s: float
    ) -> list[dict[str, Any]]:
        """Let verifier ``name`` judge samples that ``encode_sample`` made.

        Returns:
            For each sample ``reward`` (None when ``error`` is set), ``error``, ``info`` and
            ``latency_s``, the time of the whole call.

        Raises:
            TimeoutError: the deadline passed; the worker has been killed.
            InfrastructureError: the worker died, or was killed for an impossible reply.
        """
        self.wait_ready()
        if self._channel.readable():  # a reply nobody asked for, or the end of the worker
            self.kill()
            self.wait_ready()
        id, start = new_id(), time.monotonic()
        try:
            self._send(encode_request(name, samples, id=id), start + timeout_s)
            frame = self._receive(start + timeout_s, max_bytes=MAX_REPLY_BYTES * len(samples))
            replies = decode_replies(frame, id=id, num_samples=len(samples))
        except TimeoutError:
            self.kill()
            raise
        except BadReply as error:
            raise self._death(str(error)) from error
        latency_s = time.monotonic() - start
        return [reply | {"latency_s": latency_s} for reply in replies]

    def kill(self) -> int | None:
        """End the worker and every process of its group; return its exit status."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return None
        # Before wait(): until then the pid, and so the group's id, cannot be another's.
        _kill_group(process)
        status = None
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel, not in us
            status = process.wait(_KILL_TIMEOUT_S)
        self._drain(64)
        if process.stdout is not None:
            process.stdout.close()
        self._output = None
        self._channel.close()
        return status

    def interrupt(self) -> None:
        """From another thread: make the call in progress fail and refuse new starts."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                _kill_group(self._process)

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

    def _receive(self, deadline: float, *, max_bytes: int) -> bytes:
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            sources = [self._channel.fileno()]
            if self._output is not None:
                sources.append(self._output.fileno())
            ready = wait(sources, remaining)
            if sources[-1] in ready and self._output is not None:
                self._drain(1)  # a full pipe would block a worker that prints
            if sources[0] not in ready:
                continue
            try:
                frame = self._channel.recv(timeout_s=remaining, max_bytes=max_bytes)
            except TimeoutError:
                raise
            except OversizedMessage as error:
                raise self._death(f"it sent {error}") from error
            except OSError as error:
                raise self._death() from error
            if frame is None:
                raise self._death()
            return frame

    def _drain(self, num_reads: int) -> None:
        for _ in range(num_reads):
            chunk = self._output.read(1 << 16) if self._output is not None else None
            if chunk is None:  # nothing there now
                return
            if not chunk:
                self._output = None
                return
            self._tail = (self._tail + chunk)[-_OUTPUT_TAIL:]

    def _death(self, fault: str | None = None) -> InfrastructureError:
        status = self.kill()
        if fault is not None:  # it may have died of itself or lived: what it said counts
            return InfrastructureError(f"worker killed ({fault}){self._printed()}")
        how = "it cannot be killed" if status is None else f"exit code {status}"
        if status is not None and status < 0:
            how = f"killed by {signal.Signals(-status).name}"
        return InfrastructureError(f"worker died ({how}){self._printed()}")

    def _printed(self) -> str:
        text = self._tail.decode(errors="replace").strip()
        return f"; it last printed: {text[-300:]}" if text else ""


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    # Not multiprocessing: its spawn runs the parent's main module again, which in a Ray actor
    # is Ray's and in a script is the user's.
    root = str(Path(rlpost.__file__).parents[1])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    fd = theirs.fileno()
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "rlpost.verifiers.worker", str(fd), str(os.getpid())],
        env=os.environ | _ONE_THREAD | {"PYTHONPATH": path},
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the driver; the group dies as one
    )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        for kill in (os.killpg, os.kill):  # a judge may have left its group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(process.pid, signal.SIGKILL)
