"""Denominators by hand and by law."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.algorithms.reduce import (
    Aggregation,
    ExampleAggregation,
    ReductionConfig,
    example_weights,
    loss_weights,
)
from rlpost.bounds import check_config
from rlpost.errors import UserError

CONSTANT = ReductionConfig(aggregation=Aggregation.constant, constant_tokens=10)
SEQUENCE = ReductionConfig(aggregation=Aggregation.sequence_mean)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ReductionConfig(), [1 / 4, 1 / 4]),
        (SEQUENCE, [1 / 2, 1 / 6]),
        (CONSTANT, [1 / 20, 1 / 20]),
    ],
)
def test_weights_by_hand(config, expected):
    assert loss_weights([1, 3], config=config) == pytest.approx(expected)


@pytest.mark.parametrize("config", [ReductionConfig(), SEQUENCE, CONSTANT])
def test_masking_a_sequence_keeps_the_denominator(config):
    before = loss_weights([1, 3], config=config)
    after = loss_weights([1, 3], config=config, kept_S=[True, False])
    assert after.tolist() == [before[0], 0]
    # Negative control: leaving the sequence out altogether scales the rest up.
    assert loss_weights([1], config=config)[0] > after[0]


def test_prompts_count_the_same_whatever_their_responses():
    config = ReductionConfig(aggregation=Aggregation.prompt_mean)
    weights = loss_weights([1, 3, 2], config=config, prompt_S=[4, 4, 9])
    assert weights == pytest.approx([1 / 8, 1 / 8, 1 / 4])


def test_an_empty_sequence_is_no_sequence():
    assert loss_weights([2, 0], config=SEQUENCE)[0] == 0.5


@pytest.mark.parametrize("config", [ReductionConfig(), SEQUENCE, CONSTANT])
def test_nothing_counted_is_safe(config):
    assert loss_weights([], config=config).tolist() == []
    assert loss_weights([0], config=config).tolist() == [0]


@pytest.mark.parametrize("config", [ReductionConfig(), SEQUENCE])
@given(lengths=st.lists(st.integers(0, 6)))
def test_means_sum_to_one(config, lengths):
    total = np.dot(loss_weights(lengths, config=config), lengths)
    assert total == pytest.approx(1.0 if any(lengths) else 0.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            ReductionConfig(aggregation=Aggregation.constant),
            r"algorithm\.reduction\.constant_tokens must be given with",
        ),
        (ReductionConfig(constant_tokens=8), r"constant_tokens=8 has no effect"),
    ],
)
def test_missing_or_dead_settings_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        check_config(config, "algorithm.reduction")


def test_usual_settings_pass():
    for config in (ReductionConfig(), SEQUENCE, CONSTANT):
        check_config(config, "algorithm.reduction")


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [(ExampleAggregation.token_mean, [[1 / 4], [1 / 4] * 3]),
     (ExampleAggregation.example_mean, [[1 / 2], [1 / 6] * 3])],
)  # fmt: skip
def test_examples_by_hand(aggregation, expected):
    weights = example_weights([1, 3], aggregation)
    for ours, by_hand in zip(weights, expected, strict=True):
        assert ours.tolist() == pytest.approx(by_hand)


def test_packing_imports_without_torch():
    code = "import sys, rlpost.training.packing.pack; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
