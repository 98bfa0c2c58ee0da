import pytest

from rlpost.control.result_metrics import KINDS, BestMode, kind_of, lowest_is_best, wants_low
from rlpost.errors import UserError


@pytest.mark.parametrize(
    ("metric", "lowest"),
    [
        ("val-core/loss-data/acc/mean@2", False),  # by its form, whatever the data is called
        ("sft/heldout_loss/accuracy", True),
        ("sft/loss", True),
        ("critic/score/mean", False),
        ("actor/ppo_kl", True),
        ("verifier/math/error_rate", True),
        ("rewards/accuracies", False),
        ("response_length/mean", None),
        ("reward/loss", None),  # both words
    ],
)
def test_the_name_tells_which_end_is_good(metric, lowest):
    assert lowest_is_best(metric) is lowest


def test_no_name_is_of_two_kinds():
    for metric in ("val-core/a/acc/mean@1", "sft/heldout_loss", "pretrain/heldout_perplexity/x"):
        assert sum(bool(kind.pattern.fullmatch(metric)) for kind in KINDS) == 1
        assert kind_of(metric) is not None
    assert kind_of("sft/loss") is None


def test_a_mode_wins_over_the_name_and_is_asked_for_where_that_does_not_tell():
    assert wants_low("sft/loss", None, field="f") and not wants_low(
        "sft/loss", BestMode.max, field="f"
    )
    assert not wants_low("a/b", BestMode.max, field="f")
    with pytest.raises(UserError, match=r"checkpoint\.best_mode must be max or min .* a/b"):
        wants_low("a/b", None, field="checkpoint.best_mode")
