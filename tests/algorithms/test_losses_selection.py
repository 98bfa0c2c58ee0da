"""The choice of tokens of Clip-Cov and KL-Cov against plain Python and its laws."""

import itertools

import numpy as np
import pytest

from rlpost.algorithms.losses import losses
from rlpost.algorithms.losses.covariance import (
    ClipCovConfig,
    KLCovConfig,
    selectors,
    token_selection,
)

CLIP = ClipCovConfig(fraction=0.1, covariance_low=0.2, covariance_high=2.0)
KL = KLCovConfig(fraction=0.1)


def batch(seed=0, num_sequences=8):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, size=num_sequences)
    logprobs = [-rng.exponential(1.0, size=n) for n in lengths]
    advantages = [np.full(n, rng.normal()) for n in lengths]
    advantages[2][:] = np.nan  # a response that is not trained on
    return advantages, logprobs


def chosen(config, advantages, logprobs, seed=3):
    select = token_selection(config)
    return select(advantages, rollout_logprobs=logprobs, config=config, seed=seed)


def products(advantages, logprobs):
    tokens = [
        (s, t, float(a), float(p))
        for s, (row, probs) in enumerate(zip(advantages, logprobs, strict=True))
        for t, (a, p) in enumerate(zip(row, probs, strict=True))
        if a == a
    ]
    mean_a = sum(a for *_, a, _ in tokens) / len(tokens)
    mean_p = sum(p for *_, p in tokens) / len(tokens)
    return {(s, t): (p - mean_p) * (a - mean_a) for s, t, a, p in tokens}


def places(selected):
    return {(s, int(t)) for s, row in enumerate(selected) for t in np.flatnonzero(row)}


def test_only_losses_that_need_a_choice_have_one():
    names = {entry.name for entry in selectors}
    assert names == {"clip_cov", "kl_cov"}
    for entry in losses:
        config = entry.config()
        assert (token_selection(config) is not None) == (entry.name in names)
        assert getattr(config, "needs_selection", False) == (entry.name in names)


@pytest.mark.parametrize("seed", range(5))
def test_kl_cov_takes_the_largest_products(seed):
    advantages, logprobs = batch(seed)
    by_product = products(advantages, logprobs)
    number = max(1, int(KL.fraction * len(by_product)))
    expected = sorted(by_product, key=by_product.get, reverse=True)[:number]
    assert places(chosen(KL, advantages, logprobs)) == set(expected)


@pytest.mark.parametrize("seed", range(5))
def test_clip_cov_draws_from_between_the_bounds(seed):
    advantages, logprobs = batch(seed)
    by_product = products(advantages, logprobs)
    inside = {
        place for place, c in by_product.items() if CLIP.covariance_low < c < CLIP.covariance_high
    }
    draws = {
        (s, t): draw
        for s, row in enumerate(advantages)
        for t, draw in enumerate(np.random.default_rng([3, s]).random(len(row)))
    }
    number = max(1, int(CLIP.fraction * len(by_product)))
    expected = sorted(inside, key=draws.get)[:number]
    assert 0 < len(expected) < len(inside)
    assert places(chosen(CLIP, advantages, logprobs)) == set(expected)
    others = [places(chosen(CLIP, advantages, logprobs, seed=other)) for other in range(4, 10)]
    assert any(other != set(expected) for other in others)


@pytest.mark.parametrize("config", [CLIP, KL], ids=["clip_cov", "kl_cov"])
def test_tokens_that_are_not_trained_change_nothing(config):
    advantages, logprobs = batch()
    selected = chosen(config, advantages, logprobs)
    assert not selected[2].any()
    longer = [np.append(row, [np.nan] * (s % 3)) for s, row in enumerate(advantages)]
    padded = [np.append(row, [-50.0] * (s % 3)) for s, row in enumerate(logprobs)]
    assert places(chosen(config, longer, padded)) == places(selected)
    for row, again in zip(selected, chosen(config, advantages, logprobs), strict=True):
        assert np.array_equal(row, again) and row.dtype == bool


@pytest.mark.parametrize("config", [CLIP, KL], ids=["clip_cov", "kl_cov"])
def test_a_choice_per_micro_batch_is_another_one(config):
    """Why it is made before the split: negative control."""
    advantages, logprobs = batch()
    whole = places(chosen(config, advantages, logprobs))
    parts = set()
    for s, _ in itertools.groupby(range(len(advantages))):
        (row,) = chosen(config, [advantages[s]], [logprobs[s]])
        parts |= {(s, int(t)) for t in np.flatnonzero(row)}
    assert parts != whole


@pytest.mark.parametrize("config", [ClipCovConfig(), KLCovConfig()])
def test_extremes(config):
    assert chosen(config, [], []) == []
    nothing = chosen(config, [np.full(3, np.nan)], [np.zeros(3)])
    assert nothing[0].tolist() == [False] * 3
    # Equal advantages: no product, so nothing for clip_cov; kl_cov still takes its share.
    same = chosen(config, [np.ones(4)], [-np.arange(4.0)])
    assert same[0].sum() == (0 if config.kind == "clip_cov" else 1)
