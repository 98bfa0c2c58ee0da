"""Processes of tests that begin with everything imported: forks of one process per pytest worker.

Importing torch, transformers, DeepSpeed and Ray takes longer than most of what a tiny model then
does. Owns that one process (imported_once.py) and how a fork becomes what it plays: environment,
directory, output and exit are those of a process that began by itself. Refuses to own what runs.
Commands that a user types are started as a user starts them in tests/operations/.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["imported_once"])


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """What a process begins with."""

    argv: list[str]  # ``-m MODULE WORDS..``, or a script and its words
    output: Path
    place: Path
    umask: int
    environment: dict[str, str] = field(repr=False)


class Forked:
    """A process that runs ``argv`` as Python would; behaves as a ``subprocess.Popen`` of text.

    It leads a session of its own. What it prints goes to a file.
    """

    def __init__(
        self, argv: Sequence[str], *, output: Path, place: Path | None = None, umask: int = -1
    ) -> None:
        begun = _Begun(
            argv=list(argv),
            output=output,
            place=place or Path.cwd(),
            umask=umask,
            environment=dict(os.environ),
        )
        self._output = output
        output.touch()
        self._process = _CONTEXT.Process(target=_be, args=(begun,))
        with pytest.MonkeyPatch.context() as patch:  # of the one that imports, when it begins
            patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
            self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired("a fork", timeout)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for its end; returns all that it printed."""
        self.wait(timeout)
        return self._output.read_text(), None


def _be(begun: _Begun) -> None:
    """Become what ``begun`` says, to the end."""
    os.setsid()
    os.chdir(begun.place)
    if begun.umask >= 0:
        os.umask(begun.umask)
    os.environ.clear()
    os.environ.update(begun.environment)
    with begun.output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    first, *rest = begun.argv
    try:
        if first == "-m":
            sys.argv, sys.path[0] = rest, str(begun.place)
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = begun.argv
            sys.path.insert(0, str(Path(first).parent))
            runpy.run_path(first, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves without
