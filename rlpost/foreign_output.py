"""Turns what libraries print into log records, so that it does not reach the terminal.

Owns the redirection of ``sys.stdout`` and ``sys.stderr``. Refuses to own where the records go
(tracking/files/run_log.py sends them to the run's log). Invariant: a write never raises and never
reaches the terminal; only the last state of a progress bar becomes a record.
"""

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

log = logging.getLogger(__name__)

_MAX_LINE = 2000  # characters
_LIBRARIES = ("transformers",)  # they keep the stream that existed when they were imported
_logging = threading.local()  # a handler that writes to the stream it logs for must not recurse


def quiet_bitsandbytes() -> None:
    """Have bitsandbytes imported without a warning that asks for a package we do not use.

    To be called before whatever imports it, peft among others. On CPUs with bfloat16 it misses a
    faster kernel of packed 4-bit weights, which only answer and never train.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


class LoggedStream(io.TextIOBase):
    """A text stream whose lines become log records; it works also after the redirection ends."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._pending = ""
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            *lines, pending = (self._pending + text).split("\n")
            # A progress bar returns to the beginning of its line and writes it again.
            self._pending = pending.rpartition("\r")[2][-_MAX_LINE:] or pending[-_MAX_LINE:]
        for line in lines:
            self._log(line.rstrip("\r").rpartition("\r")[2])
        return len(text)

    @staticmethod
    def _log(line: str) -> None:
        if line.strip() and not getattr(_logging, "busy", False):
            _logging.busy = True
            try:
                log.info("%s", line.rstrip()[:_MAX_LINE])
            finally:
                _logging.busy = False


@contextmanager
def logged_output() -> Iterator[TextIO]:
    """Turn what is printed inside into log records; yields the stream that was ``sys.stdout``.

    Example::

        with logged_output() as terminal:
            load_model()  # its progress bars are not seen
            print("loaded", file=terminal)
    """
    terminal, stream = sys.stdout, LoggedStream()
    with redirect_stdout(stream), redirect_stderr(stream), _handlers_on(stream):
        yield terminal


@contextmanager
def _handlers_on(stream: LoggedStream) -> Iterator[None]:
    """Make the terminal handlers of libraries write to ``stream`` until the block ends."""
    handlers = [
        (handler, handler.stream)
        for library in _LIBRARIES
        for handler in logging.getLogger(library).handlers
        if type(handler) is logging.StreamHandler
    ]
    for handler, _ in handlers:
        handler.stream = stream  # setStream() would flush what may be closed
    try:
        yield
    finally:
        for handler, before in handlers:
            handler.stream = before
