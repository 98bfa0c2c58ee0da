"""A strict JSON parser: duplicate keys and huge integers are errors of their row.

Owns the parsing. Refuses to own addresses (sources/files.py). Invariant: a value that cannot be
used (an object with a duplicate key, an integer that is too long) is replaced by ``Unfit``, so
that only its row is bad.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rlpost.data.plain import MAX_INTEGER_DIGITS, TOO_DEEP, Unfit

_SPACE = re.compile(r"[ \t\n\r]*")
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


def parse(text: str) -> Any:
    """Return the value that ``text`` holds; ``Unfit`` if it is nested too deeply.

    Raises:
        json.JSONDecodeError: it is not JSON.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        return Unfit(TOO_DEEP)


def elements(text: str) -> Iterator[Any]:
    """Yield the elements of the array that ``text`` holds; ``Unfit`` as for ``parse``.

    Raises:
        json.JSONDecodeError: at the place where the text stops being a JSON array.
    """
    at = _skip(text, _skip(text, 0) + 1)
    while text[at : at + 1] != "]":
        value, at = _element(text, at)
        yield value
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at = _skip(text, at + 1)
        if text[at : at + 1] == "]":
            raise json.JSONDecodeError("Illegal trailing comma before end of array", text, at)
    end = _skip(text, at + 1)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _element(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError:
        return Unfit(TOO_DEEP), _end_of_nested(text, at)


def _end_of_nested(text: str, at: int) -> int:
    """Return where the list or object that begins at ``at`` ends, without recursion."""
    depth = 0
    for match in _STRUCTURE.finditer(text, at):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    raise json.JSONDecodeError("Unterminated list or object starting at", text, at)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _integer(digits: str) -> int | Unfit:
    if len(digits.removeprefix("-")) > MAX_INTEGER_DIGITS:
        return Unfit(
            f"an integer has {len(digits.removeprefix('-'))} digits, at most "
            f"{MAX_INTEGER_DIGITS} are read; write it as text"
        )
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
    return Unfit(f"the key {twice!a:.80} occurs twice in one object; remove one of them")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
