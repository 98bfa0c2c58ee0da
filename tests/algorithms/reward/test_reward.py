"""Losses of reward models by hand, at extremes, by finite differences and by laws."""

import math

import pytest
import torch

from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.loss import LossBatch, Outputs
from rlpost.algorithms.reward import (
    BradleyTerryConfig,
    RewardObjective,
    StepConfig,
    StepObjective,
    reward_losses,
)
from rlpost.bounds import check_config
from rlpost.errors import UserError

WIDE = torch.float64
PAIRS = [(0.3, -0.2), (-1.0, 0.5), (2.0, 2.0), (80.0, -80.0), (-80.0, 80.0)]
MARGINS = [0.0, 0.5, 1.0, 2.0, 0.1]
STEPS = [(0.4, 1.0), (-0.3, 0.0), (1.5, 0.25), (80.0, 1.0), (80.0, 0.0), (-80.0, 1.0)]


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def by_hand(chosen, rejected, *, centre=0.0, margin=0.0):
    return softplus(margin + rejected - chosen) + centre * (chosen + rejected) ** 2


def pair_batch(num, **columns):
    columns = {"weight_U": torch.full((num,), 1 / num, dtype=WIDE), **columns}
    return LossBatch(
        item_R=torch.arange(2 * num), unit_I=torch.arange(num).repeat_interleave(2),
        num_items=2 * num, num_units=num, columns=columns,
    )  # fmt: skip


def scores(pairs):
    flat = [score for pair in pairs for score in pair]
    return torch.tensor(flat, dtype=WIDE, requires_grad=True)


def step_batch(labels, weights=None):
    num = len(labels)
    weight_R = torch.full((num,), 1 / num, dtype=WIDE)
    if weights is not None:
        weight_R = torch.tensor(weights, dtype=WIDE)
    return LossBatch(
        item_R=torch.zeros(num, dtype=torch.int64), unit_I=torch.zeros(1, dtype=torch.int64),
        num_items=1, num_units=1,
        columns={"weight_R": weight_R, "labels_R": torch.tensor(labels, dtype=WIDE)},
    )  # fmt: skip


@pytest.mark.parametrize("centre", [0.0, 0.01])
@pytest.mark.parametrize("margins", [None, MARGINS])
def test_bradley_terry_is_that_of_plain_python(centre, margins):
    config = BradleyTerryConfig(centre=centre, margin_column="margin" if margins else None)
    objective, scores_R = RewardObjective(loss=config), scores(PAIRS)
    extra = {"margin_U": torch.tensor(margins, dtype=WIDE)} if margins else {}
    batch = pair_batch(len(PAIRS), **extra)
    assert set(objective.columns) == set(batch.columns)
    total = objective(Outputs(scores_R=scores_R), batch).total(batch)
    expected = [
        by_hand(*pair, centre=centre, margin=margin)
        for pair, margin in zip(PAIRS, margins or [0.0] * len(PAIRS), strict=True)
    ]
    assert total.item() == pytest.approx(math.fsum(expected) / len(PAIRS), rel=1e-12)
    total.backward()
    assert bool(scores_R.grad.isfinite().all())
    for place in range(6):
        ends = []
        for step in (1e-6, -1e-6):
            row, side = divmod(place, 2)
            pair = list(PAIRS[row])
            pair[side] += step
            margin = margins[row] if margins else 0.0
            ends.append(by_hand(*pair, centre=centre, margin=margin))
        difference = (ends[0] - ends[1]) / 2e-6 / len(PAIRS)
        assert scores_R.grad[place].item() == pytest.approx(difference, abs=1e-8)


def test_step_loss_is_that_of_plain_python():
    logits_R = torch.tensor([r for r, _ in STEPS], dtype=WIDE, requires_grad=True)
    batch = step_batch([y for _, y in STEPS])
    total = StepObjective()(Outputs(scores_R=logits_R), batch).total(batch)
    expected = [y * softplus(-r) + (1 - y) * softplus(r) for r, y in STEPS]
    assert total.item() == pytest.approx(math.fsum(expected) / len(STEPS), rel=1e-12)
    total.backward()
    sigma = [1 / (1 + math.exp(-r)) for r, _ in STEPS]
    slopes = [(p - y) / len(STEPS) for p, (_, y) in zip(sigma, STEPS, strict=True)]
    assert logits_R.grad.tolist() == pytest.approx(slopes, abs=1e-12)


def test_a_head_that_starts_at_zero_costs_log_2():
    zeros_R = torch.zeros(4, dtype=WIDE)
    pairs, steps = pair_batch(2), step_batch([1.0, 0.0, 1.0, 0.5])
    assert RewardObjective()(Outputs(scores_R=zeros_R), pairs).total(pairs).item() == math.log(2)
    first = StepObjective()(Outputs(scores_R=zeros_R), steps).total(steps)
    assert first.item() == pytest.approx(math.log(2))


def test_metrics_by_hand():
    batch, tally = pair_batch(3), Tally()
    result = RewardObjective()(Outputs(scores_R=scores(PAIRS[:3])), batch)
    tally.add(result.diagnostics_U, counted_R=batch.counted_U)
    assert tally.metrics() == pytest.approx(
        {
            "reward/chosen": 1.3 / 3,
            "reward/rejected": 2.3 / 3,
            "reward/margin": -1 / 3,
            "reward/accuracy": 0.5,  # right, wrong and a tie
        }
    )
    steps, tally = step_batch([1.0, 1.0, 0.0, 0.2]), Tally()
    logits_R = torch.tensor([0.1, -0.1, -3.0, 3.0], dtype=WIDE)
    result = StepObjective()(Outputs(scores_R=logits_R), steps)
    tally.add(result.diagnostics_R, counted_R=steps.counted_R)
    assert tally.metrics() == {"reward/step_accuracy": 0.5}


def test_centring_pulls_the_level_and_leaves_the_order():
    config = BradleyTerryConfig(centre=0.1)
    scores_R = scores([(5.0, 5.0)])
    batch = pair_batch(1)
    RewardObjective(loss=config)(Outputs(scores_R=scores_R), batch).total(batch).backward()
    level, order = scores_R.grad.sum().item(), (scores_R.grad[0] - scores_R.grad[1]).item()
    assert level == pytest.approx(2 * 0.1 * 2 * 10.0)
    assert order == pytest.approx(-1.0)  # twice -sigma(0), as without centring


def test_what_does_not_count_may_hold_anything():
    leaf = torch.zeros(4, dtype=WIDE, requires_grad=True)
    scores_R = leaf + torch.tensor([0.0, 1.0, math.inf, -math.inf], dtype=WIDE)
    batch = pair_batch(2, weight_U=torch.tensor([1.0, 0.0], dtype=WIDE))
    total = RewardObjective()(Outputs(scores_R=scores_R), batch).total(batch)
    total.backward()
    assert total.item() == pytest.approx(softplus(1.0))
    assert leaf.grad[2:].tolist() == [0, 0]
    steps = step_batch([1.0, math.nan], weights=[1.0, 0.0])
    result = StepObjective()(Outputs(scores_R=torch.zeros(2, dtype=WIDE)), steps)
    assert result.total(steps).item() == pytest.approx(math.log(2))


def test_a_dummy_adds_nothing_and_stays_in_the_graph():
    leaf = torch.zeros(1, dtype=WIDE, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.int64)
    batch = LossBatch(
        item_R=zero, unit_I=zero, num_items=1, num_units=1,
        columns={"weight_U": torch.zeros(1, dtype=WIDE)},
    )  # fmt: skip
    total = RewardObjective()(Outputs(scores_R=leaf), batch).total(batch)
    total.backward()
    assert total.item() == 0 and leaf.grad.tolist() == [0]


def test_the_registry_and_the_bounds():
    assert {entry.name: entry.config for entry in reward_losses} == {
        "bradley_terry": BradleyTerryConfig,
        "step": StepConfig,
    }
    with pytest.raises(UserError, match=r"loss\.centre must be in"):
        check_config(BradleyTerryConfig(centre=-0.1), "loss")
