"""Every preference loss against plain Python, at its start, at extremes and by its laws."""

import dataclasses
import math
from dataclasses import replace

import preference_references as ref
import pytest
import torch
from preference_batches import config_of, evaluate, is_judged, random_rows, responses
from preference_references import Judged, Pair, Response

from rlpost.algorithms.preference import preference_losses
from rlpost.algorithms.preference.kto import reference_point
from rlpost.bounds import check_config
from rlpost.errors import UserError

KINDS = sorted(ref.LOSSES)

CERTAIN = Response((0.0,), (-80.0,))
LOST = Response((-80.0,), (0.0,))
EXTREMES = {
    "the policy has left the reference by 80 nats, the right way": (CERTAIN, LOST),
    "the wrong way": (LOST, CERTAIN),
    "probabilities of 1": (Response((0.0, 0.0), (0.0, 0.0)), Response((0.0,), (0.0,))),
    "a rejected response of probability 1": (Response((-3.0,), (-1.0,)), CERTAIN),
    "nearly 1": (Response((-1e-8,), (-1e-8,)), Response((-1e-9, 0.0), (-1e-8, 0.0))),
    "thousands of nats": (Response((-9e3,) * 3, (-1.0,) * 3), Response((-1.0,), (-9e3,))),
}


def extreme_rows(config, name):
    chosen, rejected = EXTREMES[name]
    if is_judged(config):
        return [Judged(chosen, is_good=True, z=0.5), Judged(rejected, is_good=False, z=0.5)]
    return [Pair(chosen, rejected)]


def reference_total(rows, config):
    return ref.total(rows, config, kind=config.kind, nll_weight=config.nll_weight)


def test_every_registered_loss_has_a_reference():
    assert sorted(entry.name for entry in preference_losses) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_batch_is_that_of_plain_python(kind):
    config = config_of(kind)
    for seed in range(5):
        rows = random_rows(config, seed=seed)
        expected = reference_total(rows, config)
        assert evaluate(rows, config).total == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_are_exact_and_have_finite_gradients(kind, name):
    config = config_of(kind)
    rows = extreme_rows(config, name)
    found = evaluate(rows, config)
    assert found.total == pytest.approx(reference_total(rows, config), rel=1e-9, abs=1e-9)
    assert all(bool(each.isfinite().all()) for each in found.gradients.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_in_float32_are_finite(kind, name):
    config = config_of(kind)
    found = {}
    for dtype in (torch.float32, torch.float64):
        inputs, leaves = direct_inputs(extreme_rows(config, name), config, dtype)
        values_U = preference_losses.get(kind).target(inputs, config)
        gradients = torch.autograd.grad(values_U.sum(), leaves)
        assert bool(values_U.isfinite().all())
        assert all(bool(each.isfinite().all()) for each in gradients)
        found[dtype] = values_U.double()
    torch.testing.assert_close(found[torch.float32], found[torch.float64], rtol=1e-5, atol=1e-5)


def direct_inputs(rows, config, dtype):
    """A loss's own inputs, and the tensors that carry the gradient."""

    def column(numbers, grad=False):
        return torch.tensor(list(numbers), dtype=dtype, requires_grad=grad)

    def sums(which, of):
        return [math.fsum(getattr(responses(row)[which], of)) for row in rows]

    def lengths(which):
        return column(len(responses(row)[which].policy) for row in rows)

    if is_judged(config):
        policy_U = column(sums(0, "policy"), grad=True)
        inputs = config.inputs(
            policy_U=policy_U, ref_U=column(sums(0, "ref")), tokens_U=lengths(0),
            is_good_U=torch.tensor([row.is_good for row in rows]),
            kl_U=column(row.z for row in rows),
        )  # fmt: skip
        return inputs, [policy_U]
    leaves = [column(sums(which, "policy"), grad=True) for which in (0, 1)]
    references = [column(sums(which, "ref")) for which in (0, 1)]
    inputs = config.inputs(
        policy_chosen_U=leaves[0], policy_rejected_U=leaves[1],
        chosen_tokens_U=lengths(0), rejected_tokens_U=lengths(1),
        ref_chosen_U=references[0] if config.needs_reference else None,
        ref_rejected_U=references[1] if config.needs_reference else None,
    )  # fmt: skip
    return inputs, leaves


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    config = config_of(kind)
    rows = random_rows(config, num=3)
    found, step = evaluate(rows, config).gradients, 1e-6
    for row, both in enumerate(rows):
        for place, response in enumerate(responses(both)):
            for token in range(len(response.policy)):
                values = [
                    reference_total(moved(rows, row, place, token, by), config)
                    for by in (step, -step)
                ]
                difference = (values[0] - values[1]) / (2 * step)
                assert found[row, place][token].item() == pytest.approx(difference, abs=1e-7)


def moved(rows, row, place, token, by):
    policy = list(responses(rows[row])[place].policy)
    policy[token] += by
    name = "response" if isinstance(rows[row], Judged) else ("chosen", "rejected")[place]
    response = replace(responses(rows[row])[place], policy=tuple(policy))
    return [*rows[:row], replace(rows[row], **{name: response}), *rows[row + 1 :]]


# Responses of 2 and 3 tokens, each of log-prob -0.5 and -0.7: means, and their odds.
_P, _Q = math.exp(-0.5), math.exp(-0.7)
AT_THE_START = {
    "dpo": math.log(2),
    "rpo": math.log(2) + 0.5,
    "cdpo": math.log(2),
    "robust": math.log(2),
    "ipo": 25.0,
    "hinge": 1.0,
    "kto": 0.5,
    "cpo": math.log(1 + math.exp(-0.1 * (-1.0 + 2.1))) + 0.5,
    "simpo": math.log(1 + math.exp(-(2.0 * 0.2 - 1.0))),
    "orpo": 0.5 + 0.1 * math.log(1 + _Q / (1 - _Q) / (_P / (1 - _P))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_is_known(kind):
    config = config_of(kind)
    start = Response((-0.5,) * 2, (-0.5,) * 2), Response((-0.7,) * 3, (-0.7,) * 3)
    if is_judged(config):
        z = reference_point([-3.0, -1.0], [-3.0, -1.0])
        rows = [Judged(start[0], is_good=True, z=z), Judged(start[1], is_good=False, z=z)]
    else:
        rows = [Pair(*start)]
    found = evaluate(rows, config)
    assert found.total == pytest.approx(AT_THE_START[kind], abs=1e-12)
    if config.needs_reference:
        assert found.metrics["rewards/chosen"] == found.metrics["rewards/rejected"] == 0
        assert found.metrics["rewards/accuracies"] == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_acts(kind):
    config = config_of(kind)
    rows = random_rows(config)
    plain = evaluate(rows, config)
    for field in dataclasses.fields(config):
        if field.name != "kind":
            other = replace(config, **{field.name: 1.5 * getattr(config, field.name)})
            found = evaluate(rows, other)
            assert abs(found.total - plain.total) > 1e-4, field.name
            apart = [(found.gradients[k] - plain.gradients[k]).abs().max() for k in plain.gradients]
            assert max(apart) > 1e-4, field.name


@pytest.mark.parametrize("kind", ["cdpo", "robust"])
def test_label_smoothing(kind):
    def slope(reward, **options):
        """d loss / d (beta d) of a pair with this reward margin."""
        config = config_of(kind, beta=1.0, **options)
        pair = Pair(Response((-1.0,), (-1.0 - reward,)), Response((-1.0,), (-1.0,)))
        return evaluate([pair], config).gradients[0, 0].item()

    sigma = 1 / (1 + math.exp(-2.0))
    plain = sigma - 1
    assert slope(2.0, label_smoothing=0.0) == pytest.approx(plain)  # DPO
    flipped = sigma
    if kind == "cdpo":
        assert slope(2.0, label_smoothing=0.2) == pytest.approx(0.8 * plain + 0.2 * flipped)
        assert slope(math.log(0.8 / 0.2), label_smoothing=0.2) == pytest.approx(0, abs=1e-12)
    else:
        # The mean over right labels at 0.8 and flipped ones at 0.2 is the slope on clean labels.
        right, wrong = slope(2.0, label_smoothing=0.2), -slope(-2.0, label_smoothing=0.2)
        assert 0.8 * right + 0.2 * wrong == pytest.approx(plain)


def test_a_higher_beta_keeps_the_policy_closer_to_the_reference():
    """Where pairs of one prompt are labelled right at 0.8, the best log-ratio is log(4) / beta."""
    best = {}
    for beta in (0.1, 0.5):
        d = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [d], lr=0.5 / beta**2, max_iter=200, line_search_fn="strong_wolfe"
        )

        def loss(d=d, beta=beta):
            ends = [config_inputs(sign * d) for sign in (1, -1)]
            config = config_of("dpo", beta=beta)
            values = [preference_losses.get("dpo").target(each, config) for each in ends]
            return (0.8 * values[0] + 0.2 * values[1]).sum()

        def closure(optimizer=optimizer, loss=loss):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        best[beta] = d.item()
    assert best[0.1] == pytest.approx(math.log(4) / 0.1, rel=1e-4)
    assert best[0.5] == pytest.approx(math.log(4) / 0.5, rel=1e-4)


def config_inputs(d):
    zero = torch.zeros_like(d)
    return config_of("dpo").inputs(
        policy_chosen_U=d, policy_rejected_U=zero, chosen_tokens_U=zero + 1,
        rejected_tokens_U=zero + 1, ref_chosen_U=zero, ref_rejected_U=zero,
    )  # fmt: skip


def test_the_reference_point_is_a_mean_of_the_batch_and_never_negative():
    assert reference_point([-1.0, -2.0], [-2.0, -4.0]) == 1.5
    assert reference_point([-5.0, -2.0], [-2.0, -4.0]) == 0.0


@pytest.mark.parametrize("kind", ["orpo", "simpo", "ipo"])
def test_means_per_token_do_not_know_lengths(kind):
    config = config_of(kind)
    short = Pair(Response((-0.5,), (-0.6,)), Response((-0.9,), (-0.7,)))
    long = Pair(Response((-0.5,) * 4, (-0.6,) * 4), Response((-0.9,) * 3, (-0.7,) * 3))
    assert evaluate([short], config).total == pytest.approx(evaluate([long], config).total)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("dpo", {"beta": 0.0}), ("dpo", {"beta": math.nan}), ("cdpo", {"label_smoothing": 0.5}),
     ("robust", {"label_smoothing": -0.1}), ("simpo", {"gamma": -1.0}), ("rpo", {"alpha": -1.0}),
     ("kto", {"desirable_weight": 0.0})],
)  # fmt: skip
def test_numbers_out_of_bounds_are_refused_with_a_way_out(kind, options):
    (name,) = options
    with pytest.raises(UserError, match=rf"loss\.{name} must be in"):
        check_config(config_of(kind, **options), "loss")
