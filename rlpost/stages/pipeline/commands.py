"""The commands that a pipeline runs, and what it says meanwhile.

Owns what an exit code means for the chain, and the wait for a process that an earlier pipeline
left. Refuses to own processes (child.py) and which commands are run (drive.py).
"""

import logging
import time
from collections.abc import Sequence
from typing import Protocol, TextIO

from rlpost.errors import RunFailed, UserError
from rlpost.stages.run_directory import RunDirectory

log = logging.getLogger(__name__)

_SAVES_WITHIN_S = 600.0


class RunsCommands(Protocol):
    """Who runs the command line of a stage."""

    def run(self, argv: Sequence[str]) -> int:
        """Run ``rlpost`` with ``argv`` to its end; see ``Children``."""

    def heed(self) -> None:
        """Raises Interrupted: the pipeline was told to end."""


class Commands:
    """Commands one after the other, and a person who is told of them.

    Args:
        children: runs each.
        terminal: where the person reads.
    """

    def __init__(self, children: RunsCommands, terminal: TextIO) -> None:
        self._children = children
        self._terminal = terminal

    def run(self, command: str, words: Sequence[str], run: RunDirectory, *, what: str) -> None:
        """Run one command to its end.

        Raises:
            UserError: it refused its options or data.
            RunFailed: it failed.
            Interrupted: it, or the pipeline, was told to end.
        """
        self._wait_for(run)
        log.info("rlpost %s %s", command, " ".join(words))
        code = self._children.run([command, *words])
        if code == 2:
            raise UserError(f"{what}: rlpost {command} refused to run, for the reason above")
        if code != 0:
            raise RunFailed(
                f"{what}: rlpost {command} ended with exit code {code}; see {run.log}. The same "
                "command goes on where it ended"
            )

    def _wait_for(self, run: RunDirectory) -> None:
        """Let a process end that a killed pipeline has left in a run's directory, and that saves.

        Raises:
            UserError: it does not end in time.
        """
        deadline, told = time.monotonic() + _SAVES_WITHIN_S, False
        while run.exists:
            try:
                run.lock().close()
            except UserError:
                if time.monotonic() > deadline:
                    raise
                if not told:
                    self.say(f"waiting for the process that still saves in {run.root}")
                told = True
                self._children.heed()
                time.sleep(1)
            else:
                return

    def say(self, text: str) -> None:
        log.info("%s", text)
        self._terminal.write(f"{text}\n")
        self._terminal.flush()

    def warn(self, text: str) -> None:
        log.warning("%s", text)
        self._terminal.write(f"warning: {text}\n")
        self._terminal.flush()
