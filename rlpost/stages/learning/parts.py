"""Rows in parts that are sent to the ranks at a time.

Owns the cut. Refuses to own what is asked of a part.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

TOKENS_PER_CALL = 2**18  # so much is sent to the ranks at a time

T = TypeVar("T")


def in_parts(
    items: Iterable[T],
    *,
    tokens_of: Callable[[T], int] = len,  # type: ignore[assignment]
    tokens_per_call: int = TOKENS_PER_CALL,
) -> Iterator[list[T]]:
    """Yield items in lists of about so many tokens, with one item at least in each."""
    part: list[T] = []
    size = 0
    for item in items:
        tokens = tokens_of(item)
        if part and size + tokens > tokens_per_call:
            yield part
            part, size = [], 0
        part.append(item)
        size += tokens
    if part:
        yield part
