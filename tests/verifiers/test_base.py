import pytest
from episodes import episode, trajectory

from rlpost.errors import DataError
from rlpost.types import Prompt
from rlpost.verifiers.base import AnswerConfig, Sample, refusal_of, sample_of

CONFIG = AnswerConfig(kind="any")


def _episode(text):
    return episode(trajectory((7, 8)), finish_reason="length", text=text)


def test_string_prompt_has_string_completion():
    prompt = Prompt(uid="0:1", token_ids=(1, 2), text="2+3?", columns={"answer": 5}, address="f:2")
    sample = sample_of(prompt, _episode("5"))
    assert sample == Sample(
        prompt="2+3?",
        text="5",
        completion_ids=(7, 8),
        columns={"answer": 5},
        finish_reason="length",
        address="f:2",
    )
    assert sample.completion == "5"


def test_messages_prompt_has_one_assistant_message():
    messages = ({"role": "user", "content": "2+3?"},)
    prompt = Prompt(uid="0:1", token_ids=(1, 2), text="2+3?", messages=messages)
    sample = sample_of(prompt, _episode("5"))
    assert sample.prompt == [{"role": "user", "content": "2+3?"}]
    assert sample.completion == [{"role": "assistant", "content": "5"}]


@pytest.mark.parametrize(("gold", "text"), [("  6 ", "6"), (6, "6"), (0.5, "0.5"), (0, "0")])
def test_gold_is_stripped_text(gold, text):
    assert CONFIG.gold_of(Sample(prompt="q", text="", columns={"answer": gold})) == text


@pytest.mark.parametrize(
    "gold",
    [None, "", "  ", ["6"], {"a": 1}, True, float("nan"), float("inf"), 7**9999],
    ids=lambda gold: type(gold).__name__,
)
def test_gold_that_nobody_can_judge_by_names_row_and_column(gold):
    sample = Sample(prompt="q", text="", columns={"answer": gold}, address="train.jsonl:18")
    with pytest.raises(DataError, match=r"train\.jsonl:18: column 'answer' must"):
        CONFIG.gold_of(sample)
    assert len(refusal_of(gold, column="answer")) < 200


def test_what_can_be_judged_by_is_not_refused():
    assert {refusal_of(gold, column="a") for gold in ("6", 6, 0.5, 0, "nan", 10**3000)} == {None}


def test_missing_gold_column_lists_what_the_row_has():
    sample = Sample(prompt="q", text="", columns={"ground_truth": "6"}, address="train.jsonl:18")
    with pytest.raises(DataError, match=r"no column 'answer' \(it has \['ground_truth'\]\)"):
        CONFIG.gold_of(sample)
