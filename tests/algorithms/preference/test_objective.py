"""From tokens to pairs: which tokens enter, what is measured, and what the split changes."""

import math

import pytest
import torch
from preference_batches import config_of, evaluate, is_judged, random_rows
from preference_references import LOSSES, Judged, Pair, Response

from rlpost.algorithms.loss import LossBatch, Outputs
from rlpost.algorithms.preference import PreferenceObjective

KINDS = sorted(LOSSES)
WITH_NLL = [kind for kind in KINDS if config_of(kind).nll_weight]


def agree(found, expected):
    assert found.total == pytest.approx(expected.total, abs=1e-12)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-9)
    for place, gradient in expected.gradients.items():
        torch.testing.assert_close(found.gradients[place], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_split_nor_ranks_nor_order_change_anything(kind):
    config = config_of(kind)
    rows = random_rows(config, num=5)
    whole = evaluate(rows, config)
    agree(evaluate(rows, config, max_tokens=16), whole)  # several micro-batches
    agree(evaluate(rows, config, max_tokens=16, num_ranks=4), whole)  # with dummies
    agree(evaluate(rows, config, max_tokens=30, num_ranks=2, order=[3, 0, 4, 2, 1]), whole)


@pytest.mark.parametrize("kind", WITH_NLL)
def test_a_local_mean_of_the_likelihood_would_depend_on_the_split(kind):
    """Negative control for the test above."""
    config = config_of(kind)
    rows = random_rows(config, num=5)
    whole = evaluate(rows, config, local_mean=True)
    split = evaluate(rows, config, local_mean=True, max_tokens=16)
    apart = [(split.gradients[k] - whole.gradients[k]).abs().max() for k in whole.gradients]
    assert max(apart) > 1e-3


def test_what_a_batch_must_carry():
    carried = {kind: PreferenceObjective(loss=config_of(kind)).columns for kind in KINDS}
    assert carried == {
        **dict.fromkeys(("dpo", "cdpo", "robust", "ipo", "hinge"), ("weight_U", "ref_logprobs_R")),
        "rpo": ("weight_U", "weight_R", "ref_logprobs_R"),
        "cpo": ("weight_U", "weight_R"),
        "orpo": ("weight_U", "weight_R"),
        "simpo": ("weight_U",),
        "kto": ("weight_U", "ref_logprobs_R", "label_U", "kl_U"),
    }
    assert PreferenceObjective(loss=config_of("cpo", alpha=0.0)).columns == ("weight_U",)


def test_a_rejected_response_counts_although_its_likelihood_is_not_trained():
    """Its tokens weigh 0 in the NLL and enter its log-prob all the same."""
    pair = Pair(Response((-1.0, -2.0), (-1.0, -1.0)), Response((-3.0, -1.0), (-1.0, -1.0)))
    found = evaluate([pair], config_of("rpo", beta=1.0))
    assert found.metrics["logps/rejected"] == -4
    assert found.metrics["preference/nll"] == 1.5  # of the chosen tokens alone
    assert found.metrics["rewards/chosen"] == -1
    assert found.metrics["rewards/rejected"] == -2
    assert found.gradients[0, 1].tolist() == [pytest.approx(1 / (1 + math.e))] * 2


def test_pairs_measured_by_hand():
    ahead = Pair(Response((-1.0, -1.0), (-2.0, -2.0)), Response((-1.0,), (-1.0,)))
    behind = Pair(Response((-1.0,), (-1.0,)), Response((-1.0,) * 3, (-2.0,) * 3))
    found = evaluate([ahead, behind], config_of("dpo", beta=0.5)).metrics
    assert found == pytest.approx(
        {
            "rewards/chosen": 0.5,  # of 1 and 0
            "rewards/rejected": 0.75,  # of 0 and 1.5
            "rewards/margins": -0.25,
            "rewards/accuracies": 0.5,
            "logps/chosen": -1.5,
            "logps/rejected": -2.0,
            "logps/chosen_per_token": -1.0,
            "logps/rejected_per_token": -1.0,
            "preference/chosen_tokens": 1.5,
            "preference/rejected_tokens": 2.0,
            "preference/length_correlation": 1.0,  # the longer one wins by more, twice
        }
    )


def test_rewards_follow_what_the_loss_compares():
    pair = Pair(Response((-1.0, -1.0), (-3.0, -3.0)), Response((-4.0,), (-2.0,)))
    chosen = {
        kind: evaluate([pair], config_of(kind, beta=1.0)).metrics["rewards/chosen"]
        for kind in ("dpo", "ipo", "cpo", "simpo")
    }
    assert chosen == {"dpo": 4.0, "ipo": 2.0, "cpo": -2.0, "simpo": -1.0}


def test_judged_responses_measured_by_hand():
    good = Judged(Response((-1.0, -1.0), (-2.0, -2.0)), is_good=True, z=1.0)
    weak = Judged(Response((-2.0,), (-2.0,)), is_good=True, z=1.0)
    bad = Judged(Response((-3.0,) * 3, (-2.0,) * 3), is_good=False, z=1.0)
    found = evaluate([good, weak, bad], config_of("kto", beta=1.0)).metrics
    correlation = found.pop("preference/length_correlation")
    assert found == pytest.approx(
        {
            "rewards/chosen": 1.0,  # of 2 and 0
            "rewards/rejected": -3.0,
            "rewards/margins": 4.0,
            "rewards/accuracies": 2 / 3,  # the weak one is below z
            "logps/chosen": -2.0,
            "logps/rejected": -9.0,
            "logps/chosen_per_token": -1.5,
            "logps/rejected_per_token": -3.0,
            "preference/chosen_tokens": 1.5,
            "preference/rejected_tokens": 3.0,
            "preference/kl": 1.0,
        }
    )
    # rewards 2, 0, -3 with lengths 2, 1, 3: deviations 7/3, 1/3, -8/3 with 0, -1, 1
    assert correlation == pytest.approx(-3 / math.sqrt(114 / 9 * 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_that_does_not_count_may_hold_anything(kind):
    config = config_of(kind)
    num = 1 if is_judged(config) else 2
    leaf = torch.full((2 * num,), -1.0, requires_grad=True)
    scores_R = leaf + torch.tensor([0.0] * num + [-math.inf] * num)
    objective = PreferenceObjective(loss=config)
    columns = {
        "weight_U": torch.tensor([1.0, 0.0]),
        "weight_R": torch.tensor([1.0, 0.0, 0.0, 0.0][: 2 * num]),
        "ref_logprobs_R": torch.full((2 * num,), math.nan).index_fill(0, torch.arange(num), -1.0),
        "label_U": torch.ones(2),
        "kl_U": torch.zeros(2),
    }
    batch = LossBatch(
        item_R=torch.arange(2 * num), unit_I=torch.arange(2).repeat_interleave(num),
        num_items=2 * num, num_units=2,
        columns={name: columns[name] for name in objective.columns},
    )  # fmt: skip
    total = objective(Outputs(scores_R=scores_R), batch).total(batch)
    total.backward()
    assert bool(total.isfinite())
    assert bool(leaf.grad.isfinite().all()) and not leaf.grad[num:].any()
