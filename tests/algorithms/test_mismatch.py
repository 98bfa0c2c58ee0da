"""Rollout-correction metrics by hand and by law."""

import math

import pytest
import torch

from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.mismatch import mismatch


def metrics(policy, rollout):
    tally = Tally()
    policy, rollout = (
        torch.tensor(p, dtype=torch.float64).log().requires_grad_() for p in (policy, rollout)
    )
    tally.add(
        mismatch(policy, rollout_logprobs_R=rollout),
        counted_R=torch.ones(len(policy), dtype=torch.bool),
    )
    return tally.metrics()


def test_equal_policies_have_no_mismatch():
    assert metrics([0.5, 0.2], [0.5, 0.2]) == {
        "rollout_corr/kl": 0.0,
        "rollout_corr/k3_kl": 0.0,
        "rollout_corr/rollout_is_mean": 1.0,
        "rollout_corr/rollout_is_eff_sample_size": 1.0,
        "training/rollout_probs_diff_mean": 0.0,
        "training/rollout_probs_diff_max": 0.0,
    }


def test_values_by_hand():
    # rho = 2 and 0.5
    result = metrics([0.5, 0.2], [0.25, 0.4])
    assert result["rollout_corr/kl"] == pytest.approx(0, abs=1e-12)
    assert result["rollout_corr/k3_kl"] == pytest.approx((1 - math.log(2) - 0.5 + math.log(2)) / 2)
    assert result["rollout_corr/rollout_is_mean"] == pytest.approx(1.25)
    assert result["rollout_corr/rollout_is_eff_sample_size"] == pytest.approx(1.25**2 / 2.125)
    assert result["training/rollout_probs_diff_mean"] == pytest.approx((0.25 + 0.2) / 2)
    assert result["training/rollout_probs_diff_max"] == pytest.approx(0.25)


def test_overflow_is_bounded():
    result = metrics([1.0], [1e-300])
    assert math.isfinite(result["rollout_corr/rollout_is_mean"])
