"""A stage as a process of its own: the same command line that a person would type.

Owns the process and the signals between it and the pipeline. Refuses to own what it runs.
Invariants: a signal that reaches the pipeline reaches the stage, which saves and ends; the kernel
tells the stage to end when the pipeline is killed; there is at most one stage at a time.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from rlpost.child_processes import ends_with_us
from rlpost.stages.loop import Interrupted

INTERRUPTED = 130  # exit code of a stage that was told to end, and saved

_FORWARDED = (signal.SIGINT, signal.SIGTERM)


class Children:
    """Runs stages one after the other.

    Example::

        with Children.listening() as children:
            code = children.run(["sft", "run.name=a", "data.train=a.jsonl"])
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator["Children"]:
        """Pass signals on while the block runs."""
        children = cls()
        before = {number: signal.signal(number, children._forward) for number in _FORWARDED}
        try:
            yield children
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def heed(self) -> None:
        """Raises Interrupted: somebody asked the pipeline to end."""
        if self._asked:
            raise Interrupted

    def run(self, argv: Sequence[str]) -> int:
        """Run ``rlpost`` with ``argv`` to its end; return its exit code.

        Raises:
            Interrupted: the pipeline was told to end.
        """
        self.heed()
        command = [sys.executable, "-m", "rlpost.cli.main", *argv]
        self._process = subprocess.Popen(
            command, preexec_fn=ends_with_us(sent=signal.SIGTERM, status=INTERRUPTED)
        )
        try:
            if self._asked:  # by a signal that came while it was started
                self._process.send_signal(signal.SIGTERM)
            code = self._process.wait()
        finally:
            self._process = None
        if code == INTERRUPTED:
            raise Interrupted
        self.heed()
        return code if code >= 0 else 128 - code

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._process is not None:
            self._process.send_signal(number)
