"""Each merge method against one written in plain numpy, in float64 and by other means."""

import math

import numpy as np
import pytest
import torch

from rlpost.errors import UserError
from rlpost.merging.methods import merges
from rlpost.merging.methods.base import TensorInputs
from rlpost.merging.methods.dare import Rescale, dropped
from rlpost.merging.methods.slerp import interpolated
from rlpost.merging.methods.ties import cut_of

SHAPE = (9, 13)


def inputs(num=3, seed=0, size=1.0):
    draw = np.random.default_rng(seed)
    base = draw.normal(size=SHAPE)
    return base, [base + size * draw.normal(size=SHAPE) for _ in range(num)]


def run(method, values, base=None, models=None, seeds=(1, 2, 3), **options):
    """Merge with the registered method; the inputs must come out as they went in."""
    entry = merges.get(method)
    given = [torch.tensor(each, dtype=torch.float32) for each in values]
    before = [each.clone() for each in given]
    models = models or [{}] * len(values)
    merged = entry.target(
        TensorInputs(
            values=given,
            base=None if base is None else torch.tensor(base, dtype=torch.float32),
            seeds=list(seeds)[: len(given)],
        ),
        [entry.config.per_model(**each) for each in models],
        entry.config(**options),
    )
    assert all(torch.equal(one, two) for one, two in zip(given, before, strict=True))
    return merged


def close(merged, wanted):
    np.testing.assert_allclose(merged.value.double().numpy(), wanted, atol=1e-6, rtol=1e-6)


W = [{"weight": 0.5}, {"weight": 2.0}, {"weight": -1.0}]


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_is_the_weighted_mean(normalize):
    _, values = inputs()
    wanted = 0.5 * values[0] + 2 * values[1] - values[2]
    close(run("linear", values, models=W, normalize=normalize), wanted / (1.5 if normalize else 1))
    close(run("linear", values), np.mean(values, axis=0))  # a uniform soup


def test_task_arithmetic_adds_and_takes_away():
    base, values = inputs()
    taus = [each - base for each in values]
    change = 0.5 * taus[0] + 2 * taus[1] - taus[2]
    close(run("task_arithmetic", values, base, W, lambda_=0.7), base + 0.7 * change)
    close(run("task_arithmetic", values, base, W, normalize=True), base + change / 1.5)
    negated = run("task_arithmetic", values[:1], base, [{"weight": -1.0}])
    close(negated, 2 * base - values[0])


def trimmed(tau, density):
    """Sort all entries, the largest first and equal ones by their place, and keep the first."""
    flat = tau.ravel()
    count = max(1, math.floor(density * flat.size))
    order = sorted(range(flat.size), key=lambda place: (-abs(flat[place]), place))
    kept = np.zeros_like(flat)
    kept[order[:count]] = flat[order[:count]]
    return kept.reshape(tau.shape)


def elect(taus, weights, normalize):
    """Entry by entry."""
    result = np.zeros(SHAPE)
    for place in np.ndindex(SHAPE):
        parts = [weight * tau[place] for tau, weight in zip(taus, weights, strict=True)]
        sign = 1 if sum(parts) >= 0 else -1
        agreeing = [(p, abs(w)) for p, w in zip(parts, weights, strict=True) if p * sign > 0]
        total = sum(part for part, _ in agreeing)
        by = sum(weight for _, weight in agreeing) if normalize and agreeing else 1
        result[place] = total / by
    return result


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_trims_elects_and_averages(density, normalize):
    base, values = inputs()
    models = [{**each, "density": density} for each in W]
    taus = [trimmed(each - base, density) for each in values]
    wanted = base + 0.9 * elect(taus, [0.5, 2.0, -1.0], normalize)
    merged = run("ties", values, base, models, lambda_=0.9, normalize=normalize)
    close(merged, wanted)
    assert merged.kept == pytest.approx([max(1, math.floor(density * 117)) / 117] * 3)


def test_equal_entries_at_the_threshold_are_kept_from_the_front():
    tau = torch.tensor([1.0, -2.0, 1.0, 2.0, -1.0, 0.5, 1.0, 1.0])
    mask = cut_of(tau.abs(), 0.5).mask(tau)
    assert mask.tolist() == [True, True, True, True, False, False, False, False]


def test_tiny_tensors_are_not_zeroed():
    for tau, kept in (([0.1], [True]), ([0.1, -0.3, 0.2], [False, True, False])):
        cut = cut_of(torch.tensor(tau).abs(), 0.1)
        assert cut.mask(torch.tensor(tau)).tolist() == kept
    tau, share = dropped(torch.tensor([0.3]), density=0.01, seed=5, rescale=Rescale.density)
    assert tau.tolist() == [pytest.approx(0.3)] and share == 1.0


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", Rescale)
def test_dare_drops_scales_and_adds_or_elects(method, rescale):
    base, values = inputs()
    density, seeds, weights = 0.4, (11, 12, 13), [0.5, 2.0, -1.0]
    models = [{**each, "density": density} for each in W]
    merged = run(method, values, base, models, seeds=seeds, rescale=rescale, lambda_=0.9)
    taus = []
    for value, seed in zip(values, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(SHAPE, generator=generator).numpy() < density
        tau = value - base
        l1 = np.abs(tau).sum() / np.abs(tau * mask).sum()
        taus.append(tau * mask * {"density": 1 / density, "l1": l1, "none": 1}[rescale.value])
    plain = sum(weight * tau for weight, tau in zip(weights, taus, strict=True))
    wanted = plain if method == "dare_linear" else elect(taus, weights, False)
    np.testing.assert_allclose(merged.value.numpy(), base + 0.9 * wanted, atol=3e-6)
    assert merged.kept == pytest.approx([np.count_nonzero(tau) / tau.size for tau in taus])
    again = run(method, values, base, models, seeds=seeds, rescale=rescale, lambda_=0.9)
    other = run(method, values, base, models, seeds=(1, 2, 3), rescale=rescale, lambda_=0.9)
    assert torch.equal(merged.value, again.value) and not torch.equal(merged.value, other.value)


def on_the_sphere(first, second, t):
    """By turning the first towards the second in their plane, lengths apart."""
    one, two = first / np.linalg.norm(first), second / np.linalg.norm(second)
    across = two - (one * two).sum() * one
    across /= np.linalg.norm(across)
    angle = math.atan2((two * across).sum(), (one * two).sum())
    along = (first, second)
    ends = [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]
    if np.isclose(np.linalg.norm(first), np.linalg.norm(second)):
        turned = math.cos(t * angle) * one + math.sin(t * angle) * across
        np.testing.assert_allclose(sum(e * a for e, a in zip(ends, along, strict=True)),
                                   np.linalg.norm(first) * turned, atol=1e-9)  # fmt: skip
    return ends[0] * first + ends[1] * second


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_of_weights_and_of_task_vectors(t):
    base, (first, second, _) = inputs()
    second = second * np.linalg.norm(first) / np.linalg.norm(second)
    merged = run("slerp", [first, second], t=t)
    close(merged, on_the_sphere(first, second, t))
    cosine = (first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second)
    assert merged.cosine == pytest.approx(cosine, abs=1e-6)
    shares = [{"weight": 2 * (1 - t)}, {"weight": 2 * t}]
    close(run("nuslerp", [first, second], models=shares), on_the_sphere(first, second, t))
    merged = run("nuslerp", [first, second], base, models=shares)
    close(merged, base + on_the_sphere(first - base, second - base, t))


def test_two_fine_tunes_near_their_base_are_averaged_by_slerp_and_not_by_their_task_vectors():
    base, (first, second) = inputs(num=2, size=0.01)
    merged = run("slerp", [first, second], t=0.25)
    assert merged.cosine > 0.9995
    close(merged, 0.75 * first + 0.25 * second)
    learned = run("nuslerp", [first, second], base)
    assert abs(learned.cosine) < 0.3
    assert np.abs(learned.value.numpy() - (first + second) / 2).max() > 1e-3
    same, cosine = interpolated(torch.zeros(3), torch.ones(3), 0.5)
    assert cosine is None and same.tolist() == [0.5] * 3


def test_weights_by_whose_sum_nothing_can_be_divided_are_refused():
    for method in ("linear", "nuslerp"):
        config = merges.get(method).config
        with pytest.raises(UserError, match="sum of the weights"):
            config().check_models([config.per_model(weight=0.0)] * 2, "it")
    config = merges.get("nuslerp").config
    with pytest.raises(UserError, match=r"models\[1\]\.weight must be at least 0"):
        config().check_models([config.per_model(weight=w) for w in (2.0, -1.0)], "it")
