"""Converts the values of a row to plain JSON data, or refuses them with a reason.

Owns what a column may hold. Rows are sent to verifiers as JSON and written to disk as UTF-8,
so values that JSON or UTF-8 cannot represent are refused here, with the name of the column:

- text must be valid UTF-8, so half of a surrogate pair is refused;
- a number must be finite. NaN means that a value is missing, as pandas and Parquet write
  it, and becomes None; infinity is refused;
- an integer has at most ``MAX_INTEGER_DIGITS`` digits;
- lists and objects are nested at most ``MAX_DEPTH`` levels deep; an object's keys are text;
- dates and times become ISO 8601 text, decimals their exact digits as text, UUIDs text,
  numpy scalars and arrays numbers and lists;
- bytes, images and everything else are refused.
"""

import datetime
import decimal
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlpost.errors import DataError

MAX_DEPTH = 100
MAX_INTEGER_DIGITS = 4300  # the limit of Python's own conversion
TOO_DEEP = (
    f"lists and objects are nested more than {MAX_DEPTH} levels deep; flatten the value, or "
    "store it as JSON text"
)


@dataclass(frozen=True)
class Unfit:
    """Placeholder for a value that could not be read, so that only its row is refused."""

    reason: str


class _NotPlain(ValueError):
    """A value is not plain data; the message gives the reason."""


def plain_columns(columns: Mapping[Any, Any], *, address: str) -> dict[str, Any]:
    """Return a copy of a row's columns that holds plain JSON data only.

    Raises:
        DataError: a value is not plain data; the message has the row, the column and the rule.
    """
    plain = {}
    for name, value in columns.items():
        try:
            plain[_key(name)] = _plain(value, 0)
        except _NotPlain as error:
            raise DataError(f"{address}: column {name!a:.80}: {error}") from None
    return plain


def plain_value(value: Any, *, where: str) -> Any:
    """Return a copy of one value as plain JSON data.

    Raises:
        DataError: the value is not plain data; the message has ``where`` and the rule.
    """
    try:
        return _plain(value, 0)
    except _NotPlain as error:
        raise DataError(f"{where}: {error}") from None


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return _number(value)
    if depth >= MAX_DEPTH:
        raise _NotPlain(TOO_DEEP)
    if isinstance(value, Mapping):
        return {_key(key): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, depth + 1) for each in value]
    return _converted(value, depth)


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = ascii(value[error.start])[1:-1]
            raise _NotPlain(
                f"the text holds {half}, half of a surrogate pair, which is no character; "
                "write the whole character, or remove it"
            ) from None
    return value


def _number(value: float) -> float | None:
    if math.isinf(value):
        raise _NotPlain(
            f"a number must be finite, got {value}; write it as text, or remove the column"
        )
    return None if math.isnan(value) else value


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise _NotPlain(f"keys must be text, got {key!r:.80}; convert them to text")
    return _text(key)


def _converted(value: Any, depth: int) -> Any:
    if isinstance(value, Unfit):
        raise _NotPlain(value.reason)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return format(value, "f") if value.is_finite() else _plain(float(value), depth)
    if isinstance(value, uuid.UUID):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalar or array
        return _plain(value.tolist(), depth + 1)
    raise _NotPlain(
        f"expected text, numbers, lists or objects, got {type(value).__name__}; convert the "
        "column to text, or remove it"
    )
