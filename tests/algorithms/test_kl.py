"""KL estimators: values by hand, and every gradient of the module's table by enumeration."""

import itertools
import math

import pytest
import torch

from rlpost.algorithms.kl import (
    KLConfig,
    KLForm,
    KLImportance,
    KLPlacement,
    kl_estimate,
    kl_penalty,
    kl_token_rewards,
)
from rlpost.algorithms.kl_controller import AdaptiveKLConfig
from rlpost.bounds import check_config
from rlpost.errors import UserError


def logits(*values):
    return torch.tensor(values, dtype=torch.float64)


POLICY, REFERENCE, ROLLOUT = logits(0.3, -0.5, 1.1), logits(-0.2, 0.4, 0.6), logits(1.0, 0.0, -0.4)


def exact_gradient(divergence):
    theta = POLICY.clone().requires_grad_()
    policy, reference = theta.log_softmax(0), REFERENCE.log_softmax(0)
    first, second = (policy, reference) if divergence == "policy_ref" else (reference, policy)
    (first.exp() * (first - second)).sum().backward()
    return theta.grad


def expected_gradient(form, importance, *, sampler):
    """Gradient of the penalty in expectation: each of the 3 tokens, weighted by the sampler."""
    theta = POLICY.clone().requires_grad_()
    rollout = sampler.log_softmax(0)
    penalty_R = kl_penalty(
        theta.log_softmax(0),
        ref_logprobs_R=REFERENCE.log_softmax(0),
        rollout_logprobs_R=rollout,
        config=KLConfig(form=form, importance=importance),
    )
    (rollout.exp() * penalty_R).sum().backward()
    return theta.grad


def test_values_by_hand():
    # policy 0.5, reference 0.25: l = log 2
    policy, reference = logits(math.log(0.5)), logits(math.log(0.25))
    log2 = math.log(2)
    assert kl_estimate(policy, reference, form=KLForm.k1).item() == pytest.approx(log2)
    assert kl_estimate(policy, reference, form=KLForm.k2).item() == pytest.approx(log2**2 / 2)
    assert kl_estimate(policy, reference, form=KLForm.k3).item() == pytest.approx(0.5 - 1 + log2)


@pytest.mark.parametrize("form", KLForm)
def test_policy_equal_to_reference_costs_nothing(form):
    assert kl_estimate(POLICY, POLICY, form=form).abs().max() == 0


def test_k1_and_k3_are_unbiased_values_and_k2_is_not():
    policy, reference = POLICY.log_softmax(0), REFERENCE.log_softmax(0)
    exact = (policy.exp() * (policy - reference)).sum()
    mean = {f: (policy.exp() * kl_estimate(policy, reference, form=f)).sum() for f in KLForm}
    assert mean[KLForm.k1].item() == pytest.approx(exact.item(), abs=1e-12)
    assert mean[KLForm.k3].item() == pytest.approx(exact.item(), abs=1e-12)
    assert abs(mean[KLForm.k2] - exact) > 1e-3


TABLE = {  # (form, importance) -> what it is the gradient of, off-policy
    (KLForm.k1, KLImportance.stopped): "zero",
    (KLForm.k2, KLImportance.stopped): "policy_ref",
    (KLForm.k3, KLImportance.stopped): "ref_policy",
    (KLForm.k1, KLImportance.flowing): "policy_ref",
    (KLForm.k2, KLImportance.flowing): "neither",
    (KLForm.k3, KLImportance.flowing): "policy_ref",
    (KLForm.k1, KLImportance.none): "neither",
    (KLForm.k2, KLImportance.none): "neither",
    (KLForm.k3, KLImportance.none): "neither",
}


@pytest.mark.parametrize(("form", "importance"), itertools.product(KLForm, KLImportance))
def test_off_policy_gradients_are_those_of_the_table(form, importance):
    gradient = expected_gradient(form, importance, sampler=ROLLOUT)
    candidates = {
        "zero": torch.zeros(3, dtype=torch.float64),
        "policy_ref": exact_gradient("policy_ref"),
        "ref_policy": exact_gradient("ref_policy"),
    }
    matches = [name for name, exact in candidates.items() if torch.allclose(gradient, exact)]
    assert (matches or ["neither"]) == [TABLE[form, importance]]


def test_on_policy_gradients_without_importance():
    expected = {
        KLForm.k1: torch.zeros(3, dtype=torch.float64),
        KLForm.k2: exact_gradient("policy_ref"),
        KLForm.k3: exact_gradient("ref_policy"),
    }
    for form, exact in expected.items():
        gradient = expected_gradient(form, KLImportance.none, sampler=POLICY)
        assert torch.allclose(gradient, exact, atol=1e-12), form


@pytest.mark.parametrize("importance", [KLImportance.none, KLImportance.flowing])
@pytest.mark.parametrize("form", KLForm)
def test_gradient_by_finite_differences(form, importance):
    """Not for ``stopped``: there the gradient is not the derivative of the value, by design."""
    policy = POLICY.clone().requires_grad_()
    config = KLConfig(form=form, importance=importance)
    assert torch.autograd.gradcheck(
        lambda x: kl_penalty(
            x, ref_logprobs_R=REFERENCE, rollout_logprobs_R=ROLLOUT, config=config
        ),
        (policy,),
    )


def test_extreme_tokens_stay_finite_in_float32():
    policy = torch.tensor([-500.0, 0.0], requires_grad=True)
    for form, importance in itertools.product(KLForm, KLImportance):
        values = kl_penalty(
            policy,
            ref_logprobs_R=torch.tensor([0.0, -500.0]),
            rollout_logprobs_R=torch.tensor([0.0, -500.0]),
            config=KLConfig(form=form, importance=importance),
        )
        assert values.isfinite().all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (KLConfig(coefficient=-0.1), r"algorithm\.kl\.coefficient must be in \[0, .*got -0\.1"),
        (KLConfig(form=KLForm.k1), r"algorithm\.kl\.form=k1 has an expected gradient of 0"),
        (KLConfig(form=KLForm.k2, importance=KLImportance.flowing), "gradient of no KL"),
        (
            KLConfig(placement=KLPlacement.reward),
            r"algorithm\.kl\.form=k3 with algorithm\.kl\.placement=reward has no gradient",
        ),
        (
            KLConfig(placement=KLPlacement.reward, form=KLForm.k1, importance=KLImportance.stopped),
            r"algorithm\.kl\.importance=stopped has no effect",
        ),
        (
            KLConfig(coefficient=0.1, adaptive=AdaptiveKLConfig(enabled=True)),
            r"algorithm\.kl\.adaptive\.enabled=true has no effect with .*placement=loss",
        ),
        (
            KLConfig(
                placement=KLPlacement.reward,
                form=KLForm.k1,
                adaptive=AdaptiveKLConfig(enabled=True),
            ),
            r"algorithm\.kl\.coefficient must be positive with .*adaptive",
        ),
        (
            KLConfig(adaptive=AdaptiveKLConfig(target=-1.0)),
            r"algorithm\.kl\.adaptive\.target must be in \(0, .*got -1\.0",
        ),
    ],
)
def test_useless_settings_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        check_config(config, "algorithm.kl")


def test_usual_settings_pass():
    check_config(KLConfig(), "algorithm.kl")
    check_config(
        KLConfig(coefficient=0.04, form=KLForm.k2, importance=KLImportance.stopped), "algorithm.kl"
    )
    check_config(KLConfig(form=KLForm.k1, importance=KLImportance.flowing), "algorithm.kl")
    check_config(
        KLConfig(
            coefficient=0.05,
            placement=KLPlacement.reward,
            form=KLForm.k1,
            adaptive=AdaptiveKLConfig(enabled=True),
        ),
        "algorithm.kl",
    )


def test_token_rewards_by_hand():
    # policy 0.5, reference 0.25 and the other way round; shape is kept, padding stays NaN
    policy = logits(math.log(0.5), math.log(0.25), math.nan).requires_grad_()
    ref = logits(math.log(0.25), math.log(0.5), 0.0)
    rewards = kl_token_rewards(policy[None], ref[None], coefficient=0.1)
    log2 = math.log(2)
    assert rewards[0, :2].tolist() == pytest.approx([-0.1 * log2, 0.1 * log2])
    assert rewards[0, 2].isnan()
    assert not rewards.requires_grad
    squares = kl_token_rewards(policy, ref, coefficient=1.0, form=KLForm.k2)
    assert squares[:2].tolist() == pytest.approx([-(log2**2) / 2] * 2)


def reward_gradient(form, policy_logits):
    """Expected policy gradient of the penalty in the reward, by enumeration."""
    theta = policy_logits.clone().requires_grad_()
    policy, reference = theta.log_softmax(0), REFERENCE.log_softmax(0)
    rewards = kl_token_rewards(policy, reference, coefficient=1.0, form=form)
    (policy.detach().exp() * -rewards * policy).sum().backward()  # descent on the loss
    return theta.grad


def test_in_the_reward_only_k1_has_the_gradient_of_the_divergence():
    assert torch.allclose(reward_gradient(KLForm.k1, POLICY), exact_gradient("policy_ref"))
    k3 = exact_gradient("policy_ref") - exact_gradient("ref_policy")
    assert torch.allclose(reward_gradient(KLForm.k3, POLICY), k3)
    # Close to the reference k2 and k3 lose their pull faster than k1 does.
    near = REFERENCE + 0.01 * POLICY
    pull = {form: reward_gradient(form, near).norm() for form in KLForm}
    assert pull[KLForm.k2] < 0.05 * pull[KLForm.k1]
    assert pull[KLForm.k3] < 0.05 * pull[KLForm.k1]
