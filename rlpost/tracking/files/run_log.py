"""``run.log``: everything that is logged and printed during a run, instead of on the terminal.

Owns the handlers of the root logger, and the standard streams, while a run is open. Refuses to
own what is shown on the terminal (console.py). Invariants: every record from INFO on, every
Python warning and every line that a library prints is one entry in the file; the last entry
says how the run ended; if a write fails there is one warning and the file ends; handlers and
streams are restored at the end.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rlpost.errors import UserError
from rlpost.foreign_output import logged_output

logger = logging.getLogger(__name__)

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ENTRY = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ ([A-Z]+) ([^\s:]+): (.*)")
_CHATTY = ("asyncio", "filelock", "fsspec", "httpcore", "httpx", "matplotlib", "urllib3")


class _LogFile(logging.FileHandler):
    """Appends to the file until a write fails."""

    refused = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._give_up(error)
        else:
            super().handleError(record)

    def emit(self, record: logging.LogRecord) -> None:
        if not self.refused:
            super().emit(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # the buffer cannot be written either
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if not self.refused:
            self.refused = True
            logger.warning("%s ends here: %s; the run goes on", self.baseFilename, error)


@contextmanager
def run_log(path: Path) -> Iterator[TextIO]:
    """Send all logging, and what is printed, to ``path`` (appended) instead of the terminal.

    Yields the stream that was ``sys.stdout``, for what a person should see.

    Example::

        with run_log(run_dir / "run.log") as terminal:
            run(config, Console(terminal=RunTerminal(file=terminal), ...))
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    before, before_level = list(root.handlers), root.level
    handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter(_FORMAT))
    chatty = {name: logging.getLogger(name).level for name in _CHATTY}
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    terminal = [each for each in before if _is_terminal(each)]
    for each in terminal:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with logged_output() as stdout:
            yield stdout
        logger.info("the end")
    except BaseException as error:
        _log_ending(error)
        raise
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()
        for each in terminal:
            root.addHandler(each)
        root.setLevel(before_level)
        for name, old in chatty.items():
            logging.getLogger(name).setLevel(old)


def _log_ending(error: BaseException) -> None:
    """Log the error; errors that the user can fix, and interruptions, have no traceback."""
    if isinstance(error, UserError) or not isinstance(error, Exception):
        logger.error("ended by %s: %s", type(error).__name__, error)
    else:
        logger.error("ended by %s: %s", type(error).__name__, error, exc_info=error)


def read_warnings(path: Path) -> list[tuple[str, str, str]]:
    """Return (time, level, message) of every warning and error in a run's log."""
    if not path.exists():
        return []
    found = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _ENTRY.fullmatch(line.rstrip("\n"))
            if match and match[2] in ("WARNING", "ERROR", "CRITICAL"):
                found.append((match[1], match[2].lower(), match[4]))
    return found


def _is_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(
        handler, logging.FileHandler
    )
