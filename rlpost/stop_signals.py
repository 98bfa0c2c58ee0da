"""Ctrl-C and SIGTERM while a command prepares, before anything listens for them.

Owns how they end a command then, and the memory that one came. Refuses to own what they mean to a
run that has begun (stages/driver.py), a pipeline or a server. Invariant: a signal ends the command
also where a library catches every exception, as some do while they are imported, and goes on.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_came = False
_depth = 0  # of blocks that are entered


@contextmanager
def raising() -> Iterator[None]:
    """Have either signal raise KeyboardInterrupt in the block; once one came, ignore more of them.

    They stay ignored after the block, in which nothing is left to be stopped. Outside of the main
    thread, where Python handles no signals, nothing changes.
    """
    global _came, _depth
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _came
        _came = True
        raise KeyboardInterrupt

    _came = _came and _depth > 0
    _depth += 1
    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        _depth -= 1
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if _came and _depth == 0 else handler)


def came() -> bool:
    """Whether a signal came in a block of ``raising``; a block within one is a part of it."""
    return _came


def heed() -> None:
    """Raises KeyboardInterrupt: a signal came, and whoever was interrupted went on."""
    if _came:
        raise KeyboardInterrupt
