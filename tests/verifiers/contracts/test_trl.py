"""What ``test_function.py`` does not say of TRL's convention."""

import pytest

from rlpost.errors import UserError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.contracts.adapter import Contract

SAMPLE = Sample(prompt="2+3?", text="5!", completion_ids=(7, 8), columns={"answer": "5"})


def test_what_is_logged_is_information(load):
    judge = load("""
        def f(completions, log_extra=None, log_metric=None, **kwargs):
            log_extra("parsed", ["5"])
            log_metric("accuracy", 1.0)
            return [1.0]
    """)
    assert judge(SAMPLE) == {"reward": 1.0, "parsed": "5", "accuracy": 1.0}


def test_nothing_is_added_to_the_columns(load):
    judge = load("""
        def f(completions, **columns):
            assert columns.keys() == {"prompts", "completion_ids", "answer"}, columns
            return [1.0]
    """)
    assert judge(SAMPLE) == 1.0


def test_logging_the_wrong_number_of_values_is_an_error(load):
    judge = load("""
        def f(completions, log_extra):
            log_extra("parsed", [])
            return [1.0]
    """)
    with pytest.raises(ValueError, match=r"log_extra\('parsed', values\) takes .* got 0 for 1"):
        judge(SAMPLE)


@pytest.mark.parametrize("name", ["trainer_state", "environments"])
def test_what_only_a_trainer_has_is_refused(load, name):
    with pytest.raises(UserError, match=f"needs .'{name}'., which only TRL's own trainer has"):
        load(f"def f(completions, {name}): return [1.0]")
    assert load(f"def f(completions, {name}=None): return [1.0]")(SAMPLE) == 1.0


def test_the_option_makes_any_keywords_trls(load):
    source = "def f(**kwargs): return [float(kwargs['completions'] == ['5!'])]"
    assert load(source, contract=Contract.trl)(SAMPLE) == 1.0
    with pytest.raises(UserError, match="accepts none of"):
        load("def f(text): ...", contract=Contract.trl)


def test_a_group_is_one_call_with_lists(load):
    judge = load("""
        def f(prompts, completions, completion_ids, answer, log_extra, log_metric):
            assert prompts == ["2+3?"] * 2 and answer == ["5", "5"]
            assert completion_ids == [[7, 8], [9]]
            log_extra("parsed", completions)
            log_metric("best", 1.0)
            return [float(c == max(completions, key=len)) for c in completions]
    """)
    other = Sample(prompt="2+3?", text="5", completion_ids=(9,), columns={"answer": "5"})
    assert judge.together([SAMPLE, other]) == [
        {"reward": 1.0, "parsed": "5!", "best": 1.0},
        {"reward": 0.0, "parsed": "5", "best": 1.0},
    ]
