"""Numbers of held-out pairs and steps, by hand."""

import asyncio
import math

import numpy as np
import pytest

from rlpost.data.example import Example
from rlpost.stages.reward.batch import PairPacker, StepPacker
from rlpost.stages.reward.heldout import HeldoutPairs, HeldoutSteps, measured_names
from rlpost.stages.supervised.batch import ExamplePacker


class Scoring:
    """Scores every scored token by a rule of its sequence."""

    def __init__(self, rule) -> None:
        self.rule = rule

    async def score(self, packed):
        return [[self._of(batch) for batch in mine] for mine in packed.batches]

    def _of(self, batch):
        found = [self.rule(int(token), int(at)) for token, at in zip(
            batch.target_R, batch.position_ids_T[batch.token_R], strict=True
        )]  # fmt: skip
        return np.array(found, np.float32)


def example(*response: int, labels=(), trained=None) -> Example:
    """Prompt 1, 2 and a response; a response is trained whole unless said otherwise."""
    marks = [True] * len(response) if trained is None else list(trained)
    return Example(
        ids=np.array([1, 2, *response], np.int32),
        trained=np.array([False, False, *marks]),
        labels=np.array(labels, np.float32),
        address="rows:1",
    )


def measured(job, packer, sources, rule):
    heldout = job(model=Scoring(rule), packer=packer, sources=sources, progress=lambda text: None)
    return asyncio.run(heldout()), heldout


PAIRS = PairPacker(num_ranks=2, max_tokens=40)
STEPS = StepPacker(examples=ExamplePacker(num_ranks=1, max_tokens=40))


def test_pairs_by_hand():
    sources = {
        "a": [example(5), example(4), example(3), example(6, 6)],  # one right, one wrong
        "b": [example(7, 7), example(7, 7)],  # a tie
    }
    found, _ = measured(HeldoutPairs, PAIRS, sources, lambda token, at: float(token))
    assert found["reward/heldout_accuracy/a"] == 0.5
    assert found["reward/heldout_accuracy/b"] == 0.5
    assert found["reward/heldout_accuracy"] == 0.5
    assert found["reward/heldout_margin"] == pytest.approx((1 - 3 + 0) / 3)
    losses = [math.log1p(math.exp(-d)) for d in (1, -3, 0)]
    assert found["reward/heldout_loss"] == pytest.approx(sum(losses) / 3)
    assert found["reward/heldout_longer_chosen"] == pytest.approx((0.5 + 0 + 0.5) / 3)
    sure = [1 / (1 + math.exp(-d)) for d in (1, 3)]
    expected = (abs(sure[0] - 1) + abs(sure[1] - 0) + 0) / 3
    assert found["reward/heldout_calibration_error"] == pytest.approx(expected)
    assert found["reward/heldout_reliability/90-100"] == 0.0
    assert set(measured_names(sources, of_steps=False)) <= found.keys()


def test_steps_by_hand():
    steps = [
        example(3, 9, 4, labels=(1.0, 0.0), trained=(True, False, True)),
        example(9, 3, labels=(0.25,), trained=(False, True)),
    ]
    logits = {3: 2.0, 4: -1.0}
    found, _ = measured(HeldoutSteps, STEPS, {"a": steps}, lambda token, at: logits[token])
    assert found["reward/heldout_step_accuracy"] == pytest.approx(2 / 3)
    assert found["reward/heldout_right_steps"] == pytest.approx(1 / 3)
    cross = [math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), math.log1p(math.exp(2)) - 0.5]
    assert found["reward/heldout_loss/a"] == pytest.approx(sum(cross) / 3)
    assert set(measured_names(["a"], of_steps=True)) <= found.keys()


def test_a_score_that_goes_with_length():
    rows = [each for n in range(9) for each in (example(*[5] * (n % 7 + 2)), example(5))]
    found, _ = measured(HeldoutPairs, PAIRS, {"a": rows}, lambda token, at: float(at))
    assert found["reward/heldout_length_correlation"] == pytest.approx(1.0)
    found, _ = measured(HeldoutPairs, PAIRS, {"a": rows}, lambda token, at: 0.0)
    assert "reward/heldout_length_correlation" not in found  # nothing varies
