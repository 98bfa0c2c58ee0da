"""The driver's own numbers, by hand."""

import numpy as np
import pytest
import torch

from rlpost.algorithms.advantages import Advantages
from rlpost.stages.performance import over_updates, performance
from rlpost.stages.rl import step_metrics


def test_driver_overhead_is_what_nobody_else_used():
    parts = {"timing_s/gen": 6.0, "timing_s/update_actor": 3.5, "rollout/num_tokens": 100.0}
    metrics = performance(parts, 10.0)
    assert metrics["perf/driver_overhead"] == pytest.approx(0.05)
    assert metrics["perf/throughput"] == 10.0


def test_advantages_ignore_what_is_not_trained():
    values_PGL = torch.tensor([[[1.0], [-1.0]], [[float("nan")], [float("nan")]]])
    metrics = step_metrics.advantages(Advantages(advantages_PGL=values_PGL))
    assert metrics == {
        "critic/advantages/mean": 0.0,
        "critic/advantages/max": 1.0,
        "critic/advantages/min": -1.0,
    }


def test_updates_of_a_step_combine_by_what_their_numbers_are():
    first = {"actor/pg_loss": 1.0, "actor/ratio/max": 1.5, "perf/trained_tokens": 10.0}
    second = {"actor/pg_loss": 3.0, "actor/ratio/max": 1.1, "perf/trained_tokens": 5.0}
    combined = over_updates([first, second, {"critic/vf_loss": 2.0}])
    assert combined == {
        "actor/pg_loss": 2.0,
        "actor/ratio/max": 1.5,
        "perf/trained_tokens": 15.0,
        "critic/vf_loss": 2.0,
    }


def test_values_and_returns_are_of_sampled_tokens():
    returns_PGL = torch.tensor([[[1.0, 2.0], [4.0, float("nan")]]])
    said = {0: np.array([0.5, 1.5]), 1: np.array([1.0])}
    advantages = Advantages(advantages_PGL=returns_PGL, returns_PGL=returns_PGL)
    assert step_metrics.values_and_returns(said, advantages) == {
        "critic/values/mean": 1.0,
        "critic/values/max": 1.5,
        "critic/values/min": 0.5,
        "critic/returns/mean": pytest.approx(7 / 3),
        "critic/returns/max": 4.0,
        "critic/returns/min": 1.0,
    }
