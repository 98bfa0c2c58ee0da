import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.errors import DataError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.forms import departure, refusal_of_form
from rlpost.verifiers.kinds.build import build
from rlpost.verifiers.kinds.format import FormatConfig

RECORD = {"kind": "json", "keys": {"name": "string", "age": "integer", "tags": "array"}}
GOOD = {
    '{"name": "Mira", "age": 31, "tags": []}': RECORD,
    '{"x": 1.5, "y": 2, "z": true}': {
        "kind": "json",
        "keys": {"x": "number", "y": "number", "z": "boolean"},
    },
    "- one\n- two": {"kind": "bullets", "count": 2, "mark": "-"},
    "1. one\n2. two\n3. three": {"kind": "bullets", "count": 3, "mark": "1."},
    "four words and more": {"kind": "words", "count": 4},
    "ALL 3 OF THEM!": {"kind": "case", "case": "upper"},
    "none of them, élan": {"kind": "case", "case": "lower"},
    "So it goes. The end.": {"kind": "ending", "text": "The end."},
    "a; b ;c": {"kind": "separated", "count": 3, "mark": ";"},
}
BAD = [
    ('{"name": "Mira", "age": true, "tags": []}', RECORD, "age is no integer"),
    ('{"name": "Mira", "age": 31.5, "tags": []}', RECORD, "age is no integer"),
    ('{"name": "Mira", "age": 31}', RECORD, "its keys are"),
    ('{"name": "M", "age": 3, "tags": [], "x": 1}', RECORD, "its keys are"),
    ('Here: {"name": "Mira", "age": 31, "tags": []}', RECORD, "it is not JSON"),
    ("[" * 5000, RECORD, "it is not"),
    ("[1]", RECORD, "not one JSON object"),
    ("- one\n\n- two", {"kind": "bullets", "count": 2, "mark": "-"}, "3 lines instead of 2"),
    ("- one\n* two", {"kind": "bullets", "count": 2, "mark": "-"}, "line 2 does not"),
    ("- one\n-  ", {"kind": "bullets", "count": 2, "mark": "-"}, "line 2 does not"),
    ("1. one\n1. two", {"kind": "bullets", "count": 2, "mark": "1."}, "line 2 does not"),
    ("three words here", {"kind": "words", "count": 4}, "3 words instead of 4"),
    ("Not ALL", {"kind": "case", "case": "upper"}, "not all in upper case"),
    ("123", {"kind": "case", "case": "lower"}, "not all in lower case"),
    ("The end. Or not.", {"kind": "ending", "text": "The end."}, "does not end with"),
    ("The end.", {"kind": "ending", "text": "The end."}, "nothing before"),
    ("a;b", {"kind": "separated", "count": 3, "mark": ";"}, "2 entries instead of 3"),
    ("a;;b", {"kind": "separated", "count": 3, "mark": ";"}, "an entry is empty"),
    ("a;b;\nc", {"kind": "separated", "count": 3, "mark": ";"}, "more than one line"),
]


@pytest.mark.parametrize(("text", "form"), GOOD.items())
def test_a_response_of_the_form_scores_1_and_an_empty_one_0(text, form):
    judge = build(FormatConfig())
    assert judge(Sample(prompt="q", text=f" {text}\n", columns={"form": form})) == 1
    empty = judge(Sample(prompt="q", text="<think>x</think> ", columns={"form": form}))
    assert empty == {"reward": 0.0, "reason": "the response is empty"}


@pytest.mark.parametrize(("text", "form", "reason"), BAD)
def test_another_response_departs_from_the_form(text, form, reason):
    assert refusal_of_form(form) is None
    assert reason in departure(text, form)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("json", "must be an object with a kind, got str"),
        ({"kind": "poem"}, "must have a kind of json, bullets"),
        ({"kind": "words"}, "must have count for kind=words"),
        ({"kind": "words", "count": 3, "mark": "-"}, "must have count for kind=words"),
        ({"kind": "words", "count": 0}, "has a count that cannot be used: 0"),
        ({"kind": "words", "count": True}, "has a count"),
        ({"kind": "json", "keys": {"a": "text"}}, "has a keys"),
        ({"kind": "json", "keys": {}}, "has a keys"),
        ({"kind": "case", "case": "title"}, "has a case"),
        ({"kind": "ending", "text": " "}, "has a text"),
    ],
)
def test_what_is_no_form_is_refused_when_the_row_is_loaded(form, reason):
    assert reason in FormatConfig().refusal({"form": form})
    with pytest.raises(DataError, match="column 'form'"):
        build(FormatConfig())(Sample(prompt="q", text="x", columns={"form": form}))


def test_settings_that_a_columnar_file_fills_up_with_nothing_do_not_count():
    form = {"kind": "words", "count": 2, "mark": None, "keys": None}
    assert refusal_of_form(form) is None and departure("two words", form) is None


@given(st.text(max_size=200), st.sampled_from(list(GOOD.values())))
def test_whatever_a_response_holds_it_scores_0_or_1(text, form):
    score = build(FormatConfig())(Sample(prompt="q", text=text, columns={"form": form}))
    assert score == 1.0 or score["reward"] == 0.0
