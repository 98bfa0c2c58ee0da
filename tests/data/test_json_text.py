"""Strict JSON: one bad value costs its own place, and arrays are read element by element."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.data.json_text import elements, parse
from rlpost.data.plain import Unfit

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(VALUES), st.sampled_from([None, 1]))
def test_elements_are_what_json_reads(values: list[Any], indent: int | None) -> None:
    text = json.dumps(values, indent=indent)
    assert list(elements(text)) == parse(text) == values


@pytest.mark.parametrize("text", ["[1,]", "[1 2]", "[1", "[", "[1] 2", "[,1]", '["a', "[{]", "[]]"])
def test_damaged_arrays_are_refused_as_json_refuses_them(text: str) -> None:
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(json.JSONDecodeError) as found:
        list(elements(text))
    assert found.value.lineno == expected.value.lineno


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ("7" * 5000, "an integer has 5000 digits, at most 4300"),
        ("-" + "7" * 5000, "an integer has 5000 digits"),
        ("[" * 100_000 + "]" * 100_000, "more than 100 levels deep"),
        ('{"a":' * 100_000 + '"]}"' + "}" * 100_000, "more than 100 levels deep"),
    ],
)
def test_unfit_values_cost_their_place_only(text: str, reason: str) -> None:
    found = parse(text)
    assert isinstance(found, Unfit) and reason in found.reason
    first, bad, last = elements(f'["a", {text}, {{"b": "]"}}]')
    assert (first, last) == ("a", {"b": "]"})
    assert bad == found


def test_the_longest_integer_is_read() -> None:
    assert parse("9" * 4300) == 10**4300 - 1


def test_a_deep_array_that_never_ends() -> None:
    with pytest.raises(json.JSONDecodeError, match="Unterminated"):
        list(elements("[1," + "[" * 100_000))
