"""Judged steps: each label belongs to the token in which its step ends."""

import pytest
from chat_families import FAMILIES, stop_ids, tokenizer_of

from rlpost.data.conversation.steps import StepwiseEncoder, judgements_of_steps
from rlpost.data.records import Stepwise
from rlpost.errors import DataError

STEPS = ("2 * 3 = 6.", "2 + 6 = 9.", "So it is nine.")
ROW = Stepwise(
    prompt="What is 2 + 2 * 3?", completions=STEPS, labels=(1.0, 0.5, 0.0), address="s.jsonl:4"
)
# Where generation begins with a thought, steps alone are no answer.
SIMPLE = [name for name, each in FAMILIES.items() if each.marked and name != "DeepSeek-R1"]


def encoder_of(name, **options):
    return StepwiseEncoder(tokenizer_of(name), stop_ids=stop_ids(name), **options)


@pytest.mark.parametrize("name", SIMPLE)
def test_each_step_ends_at_its_label(name):
    (example,) = encoder_of(name).encode(ROW)
    tokenizer = tokenizer_of(name)
    ends = example.trained.nonzero()[0].tolist()
    assert len(ends) == 3 and example.labels.tolist() == [1.0, 0.5, 0.0]
    assert ends[-1] == len(example) - 1
    for end, step in zip(ends, STEPS, strict=True):
        assert tokenizer.decode(example.ids[: end + 1]).rstrip().endswith(step)
        assert not tokenizer.decode(example.ids[:end]).endswith(step)
    assert judgements_of_steps([example]) == ["steps: 1, 0.5, 0"]


def test_a_cut_solution_keeps_the_labels_of_its_steps():
    (whole,) = encoder_of("ChatML").encode(ROW)
    first, second, _ = whole.trained.nonzero()[0].tolist()
    (cut,) = encoder_of("ChatML", truncate_to=second + 2).encode(ROW)
    assert len(cut) == second + 1 and cut.labels.tolist() == [1.0, 0.5]
    with pytest.raises(DataError, match=r"s\.jsonl:4: not even the first step ends within"):
        encoder_of("ChatML", truncate_to=first).encode(ROW)


def test_a_step_that_contains_the_separator_is_refused():
    row = Stepwise(prompt="Go", completions=("a\nb", "c"), labels=(1.0, 0.0), address="s.jsonl:4")
    with pytest.raises(DataError, match=r"s\.jsonl:4: completions\[0\] contains '\\n'"):
        encoder_of("ChatML").encode(row)
    (example,) = encoder_of("ChatML", separator="\n\n").encode(row)
    assert example.labels.tolist() == [1.0, 0.0]


def test_steps_that_end_in_one_token_are_refused():
    # ".." is one token: the first step ends in it, and so does the second.
    row = Stepwise(prompt="Go", completions=("a.", "."), labels=(1.0, 0.0), address="s.jsonl:4")
    with pytest.raises(DataError, match=r"s\.jsonl:4: steps 0 and 1 end in one token"):
        encoder_of("ChatML", separator="").encode(row)
