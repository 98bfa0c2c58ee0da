"""What a column may hold: plain JSON data, converted where there is one right way."""

import datetime
import decimal
import json
import math
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.data.plain import MAX_DEPTH, Unfit, plain_columns
from rlpost.errors import DataError


def plain(value: Any) -> Any:
    return plain_columns({"x": value}, address="t.jsonl:7")["x"]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(alphabet=st.characters(codec="utf-8")), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_json_passes_unchanged(value: Any) -> None:
    assert plain(value) == value
    assert json.loads(json.dumps(plain(value), allow_nan=False).encode()) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        ([1.5, math.nan], [1.5, None]),
        ((1, 2), [1, 2]),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC), "2024-02-29T12:30:00+00:00"),
        (datetime.time(12, 30), "12:30:00"),
        (decimal.Decimal("1E+3"), "1000"),
        (decimal.Decimal("0.10"), "0.10"),
        (decimal.Decimal("NaN"), None),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (2**80, 2**80),
        ("\uffff\ufdd0", "\uffff\ufdd0"),  # no characters, but UTF-8
        (nested(MAX_DEPTH), nested(MAX_DEPTH)),
    ],
)
def test_conversions(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.inf, "a number must be finite, got inf"),
        ({"a": [-math.inf]}, "a number must be finite, got -inf"),
        (decimal.Decimal("Infinity"), "a number must be finite"),
        ("a \ud800 b", r"the text holds \\ud800, half of a surrogate pair"),
        ({"\udfff": 1}, r"the text holds \\udfff"),
        (b"bytes", "got bytes; convert the column to text"),
        (datetime.timedelta(1), "got timedelta"),
        ({1: "a"}, "keys must be text, got 1"),
        (object(), "got object"),
        (nested(MAX_DEPTH + 1), "more than 100 levels deep"),
        (nested(100_000), "more than 100 levels deep"),
        ({"a": Unfit("no good")}, "no good"),
    ],
)
def test_what_is_no_plain_data_names_row_column_and_rule(value: Any, reason: str) -> None:
    with pytest.raises(DataError, match=rf"^t\.jsonl:7: column 'x': .*{reason}"):
        plain(value)


def test_column_names_are_text_too() -> None:
    with pytest.raises(DataError, match=r"column '\\ud800': the text holds"):
        plain_columns({"\ud800": 1}, address="t.jsonl:7")
    with pytest.raises(DataError, match="column 3: keys must be text"):
        plain_columns({3: 1}, address="t.jsonl:7")
