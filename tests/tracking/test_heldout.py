from rlpost.control.result_metrics import ACCURACY, KINDS
from rlpost.tracking.heldout import (
    heldout_change,
    heldout_result,
    heldout_words,
    is_graded,
    last_reached,
)


def value_of(row):
    result = heldout_result(row)
    return result and (result.kind.words, result.value)


def test_the_result_is_the_mean_over_data_sets():
    row = {"val-core/a/acc/mean@2": 0.25, "val-core/b/c/acc/mean@8": 0.75, "critic/score/mean": 9.0}
    assert value_of(row) == ("held-out accuracy", 0.5)
    assert value_of({"val-core/a/acc/best@2": 1.0}) is None
    assert value_of({"sft/heldout_loss/a": 1.0, "sft/heldout_loss/b": 2.0}) == (
        "held-out loss", 1.5,
    )  # fmt: skip


def test_a_result_over_all_data_is_not_averaged_with_its_parts():
    row = {"sft/heldout_loss": 1.25, "sft/heldout_loss/a": 1.0, "sft/heldout_loss/b": 2.0}
    assert value_of(row) == ("held-out loss", 1.25)


def test_of_several_kinds_the_first_counts_and_none_is_no_number():
    row = {"pretrain/heldout_perplexity/a": 9.0, "pretrain/heldout_loss/a": None}
    assert value_of(row) == ("held-out perplexity", 9.0)
    assert value_of({**row, "pretrain/heldout_loss/a": 2.0}) == ("held-out loss", 2.0)


def test_graded_rewards_are_no_accuracy():
    name = "val-core/a/acc/mean@2"
    assert not is_graded({name: 0.5, "val-core/a/graded_frac": 0.0, "critic/score/mean": 3.0})
    assert is_graded({name: 0.5, "val-core/a/graded_frac": 0.25})
    assert is_graded({name: 1.5}) and is_graded({name: -0.5})
    assert not is_graded({name: None, "val-core/a/graded_frac": None})
    assert not is_graded({"sft/heldout_loss": 3.0})
    assert heldout_words(ACCURACY, graded=True) == "held-out reward"
    assert heldout_words(KINDS[2], graded=True) == "held-out loss"


def test_a_sentence_says_what_the_run_achieved():
    name = "val-core/a/acc/mean@2"
    rows = [{"step": 0, name: 0.125}, {"step": 1}, {"step": 2, name: 0.75}]
    assert heldout_change(rows) == "held-out accuracy 0.125 at step 0, 0.750 at step 2"
    assert heldout_change(rows[:2]) == "held-out accuracy 0.125 at step 0"
    assert heldout_change([*rows, {"step": 3, name: 2.0}]).startswith("held-out reward 0.125")
    assert heldout_change([{"step": 1}]) is None
    assert heldout_change([{"step": 4, "sft/heldout_loss": 1.5}]) == "held-out loss 1.500 at step 4"


def test_what_was_reached_is_the_last_finite_value():
    rows = [{"a/loss": 2.0}, {"a/loss": 1.0}, {"a/loss": None}, {"a/loss": float("nan")}]
    reached = last_reached(rows, "a/loss")
    assert (reached.value, reached.lowest_is_best) == (1.0, True)
    assert last_reached(rows, None) is None
    assert last_reached([{"sft/heldout_loss/x": 2.0}, {}], None).lowest_is_best
