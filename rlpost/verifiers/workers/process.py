"""The operating system's side of a worker: its process, what it prints, its end.

Owns starting and ending. Refuses to know what is said over the socket (sandbox.py).
Invariants: what a worker prints never reaches the console and never blocks it for long; when
``end`` has returned, nothing that the worker started is left (isolation.py).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

import rlpost
from rlpost.errors import InfrastructureError
from rlpost.verifiers.workers.environment import worker_environment
from rlpost.verifiers.workers.isolation import END, SIGNALLED

_END_TIMEOUT_S = 10.0  # takes milliseconds unless the kernel itself waits
_OUTPUT_TAIL = 2000  # bytes of a worker's last output, quoted when it dies


class WorkerProcess:
    """A running worker that holds the other end of ``theirs``.

    Not thread-safe, except for ``begin_end``. On Linux the kernel ends the worker when the
    *thread* that started it ends.

    Raises:
        InfrastructureError: it cannot be started.
    """

    def __init__(self, theirs: socket.socket, *, env: Iterable[str]) -> None:
        try:
            self._process = _spawn(theirs, env)
        except OSError as error:
            raise InfrastructureError(f"cannot start a verifier worker: {error}") from error
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._output: Any = self._process.stdout  # None once the worker closed it
        self._tail = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def output(self) -> list[int]:
        """Return the descriptor to wait on for output, if it may still print."""
        return [] if self._output is None else [self._output.fileno()]

    def drain(self, num_reads: int) -> None:
        """Take what was printed, so that a full pipe does not block the worker."""
        for _ in range(num_reads):
            chunk = self._output.read(1 << 16) if self._output is not None else None
            if chunk is None:  # nothing there now
                return
            if not chunk:
                self._output = None
                return
            self._tail = (self._tail + chunk)[-_OUTPUT_TAIL:]

    def printed(self) -> str:
        """Return its last words as the end of a message; empty if there were none."""
        text = self._tail.decode(errors="replace").strip()
        return f"; it last printed: {text[-300:]}" if text else ""

    def begin_end(self) -> None:
        """From any thread: ask the guard to end everything."""
        self._process.send_signal(END)

    def end(self, *, grace_s: float = 0.0) -> str:
        """End everything that was started and say how the worker ended.

        Args:
            grace_s: time to end by itself, when it seems to have done so.
        """
        status = self._wait(grace_s)
        if status is None:
            self.begin_end()
            status = self._wait(_END_TIMEOUT_S)
        if status is None:  # somebody stopped the guard
            self._kill_all()
            status = self._wait(_END_TIMEOUT_S)
        self.drain(64)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._output = None
        return _how(status)

    def _wait(self, timeout_s: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def _kill_all(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.kill()


def _spawn(theirs: socket.socket, env: Iterable[str]) -> subprocess.Popen[bytes]:
    # Not multiprocessing: its spawn runs the parent's main module again, which in a Ray actor
    # is Ray's and in a script is the user's.
    try:
        environment = worker_environment(os.environ, named=env)
    except KeyError as error:
        raise InfrastructureError(
            f"cannot start a verifier worker: verifier.env names {error.args[0]}, which process "
            f"{os.getpid()} on {socket.gethostname()}, which starts the worker, does not have; "
            "on a cluster, set it on every node before Ray is started there"
        ) from None
    root = str(Path(rlpost.__file__).parents[1])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    fd = theirs.fileno()
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "rlpost.verifiers.workers.worker", str(fd), str(os.getpid())],
        env=environment | {"PYTHONPATH": path},
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the driver
    )


def _how(status: int | None) -> str:
    if status is None:
        return "it cannot be killed"
    number = status - SIGNALLED if status > SIGNALLED else -status
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(number).name}"
    return f"exit code {status}"
