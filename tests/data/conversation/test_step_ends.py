"""Where steps end, by hand and by laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.data.conversation.step_ends import ends_in, step_ends
from rlpost.models.tiny import byte_tokenizer


@pytest.mark.parametrize(
    ("texts", "ends"),
    [
        (["a", "\n", "b"], [0, 2]),
        (["a", ".", "\n", "b", ""], [1, 3]),  # "" stands for an end-of-turn token
        (["a", "\n", ""], [0]),  # nothing follows the last separator
        (["a", "\n", "\n", "b"], [0, 3]),  # a blank line is no step
        (["a", " ", "\n ", "b"], [0, 3]),
        (["a\nb\nc", "d"], [0, 1]),  # two ends in one token are one
        (["\n", "a"], [1]),
        (["a"], [0]),
        ([""], [0]),
        (["\n", "\n"], [1]),  # a response without text has one step
    ],
)
def test_by_hand(texts, ends):
    assert ends_in(texts, separator="\n") == ends


def test_a_separator_may_be_several_tokens():
    assert ends_in(["a", "\n", "\n", "b", "\n", "c"], separator="\n\n") == [0, 5]


@given(st.lists(st.text(alphabet="ab \n", max_size=3), min_size=1, max_size=12))
def test_ends_are_ascending_places_and_depend_on_what_precedes_them_alone(texts):
    ends = ends_in(texts, separator="\n")
    assert ends == sorted(set(ends))
    assert ends[0] >= 0 and ends[-1] < len(texts)
    longer = ends_in([*texts, "\nx"], separator="\n")
    assert longer[:-1] == ends or not "".join(texts).strip()


@given(st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=5))
def test_each_written_step_has_an_end(steps):
    tokenizer = byte_tokenizer()
    ids = tokenizer("\n".join(steps) + "<|im_end|>")["input_ids"]
    ends = step_ends(tokenizer, ids, separator="\n")
    assert ends[-1] == len(ids) - 2
    assert [tokenizer.decode([ids[end]]) for end in ends] == [step[-1] for step in steps]
