"""The one place where exceptions of readers and chat templates become a ``DataError``.

Owns the translation of foreign exceptions into one paragraph with an address. Refuses to
decide whether a bad row ends the run (dataset.py). Invariant: a ``UserError`` passes
unchanged, because its message is complete.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rlpost.errors import DataError, UserError

_MAX_TEXT = 300  # characters of a foreign message
T = TypeVar("T")


@contextmanager
def refusal(address: str, problem: str, *, way_out: str) -> Iterator[None]:
    """Turn what the block raises into ``"<address>: <problem>: <exception>; <way_out>"``.

    Raises:
        DataError: the block raised anything but a ``UserError``.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise DataError(f"{address}: {problem}: {_summary(error)}; {way_out}") from error


def attempt(call: Callable[[], T], *, address: str, problem: str, way_out: str) -> T | DataError:
    """Return what ``call`` returns, or the ``DataError`` that its failure becomes."""
    try:
        with refusal(address, problem, way_out=way_out):
            return call()
    except DataError as error:
        return error


def printable(text: str) -> str:
    """Return ``text`` with ``?`` in place of every character that cannot be printed."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _summary(error: Exception) -> str:
    """Example: ``"TemplateError: Conversation roles must alternate"``."""
    words = printable(" ".join(str(error).split()))
    short = words if len(words) <= _MAX_TEXT else f"{words[:_MAX_TEXT]}..."
    return f"{type(error).__name__}: {short}" if short else type(error).__name__
