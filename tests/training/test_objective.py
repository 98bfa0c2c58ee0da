"""Loss, corrections, KL and entropy add up per token, by hand."""

import math
from dataclasses import replace

import loss_references as ref
import numpy as np
import pytest
import torch

from rlpost.algorithms.corrections.responses import GeometricMaskConfig
from rlpost.algorithms.corrections.tokens import IcePopConfig, TISConfig
from rlpost.algorithms.kl import KLConfig, KLForm, KLImportance, KLPlacement
from rlpost.algorithms.losses import ClipConfig, PolicyLossInputs, ReinforceConfig
from rlpost.algorithms.losses.weighted import AIPOConfig, DPPOConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.errors import UserError

INPUTS = PolicyLossInputs(
    policy_logprobs_R=torch.tensor([-1.0, -2.0], dtype=torch.float64),
    anchor_logprobs_R=torch.tensor([-1.0, -2.0], dtype=torch.float64),
    advantages_R=torch.tensor([1.0, -0.5], dtype=torch.float64),
    item_R=torch.tensor([0, 0]),
    entropy_R=torch.tensor([2.0, 4.0], dtype=torch.float64),
)
REF = torch.tensor([-1.5, -2.0], dtype=torch.float64)
# The sampler was at twice and at a tenth of the anchor's probability.
OFF = replace(
    INPUTS,
    rollout_logprobs_R=INPUTS.anchor_logprobs_R
    + torch.tensor([math.log(2.0), math.log(0.1)], dtype=torch.float64),
)


def evaluate(inputs=INPUTS, **kwargs):
    objective = PolicyObjective(loss=ReinforceConfig(), **kwargs)
    return objective.per_token(inputs, ref_logprobs_R=REF)


def values(inputs=INPUTS, **kwargs) -> list[float]:
    return evaluate(inputs, **kwargs).values_R.tolist()


def test_terms_add_up():
    k3 = math.exp(-0.5) - 1 + 0.5
    assert values(kl=KLConfig()) == pytest.approx([1.0, -1.0])
    assert values(kl=KLConfig(coefficient=0.1)) == pytest.approx([1.0 + 0.1 * k3, -1.0])
    assert values(kl=KLConfig(), entropy_coefficient=0.01) == pytest.approx([0.98, -1.04])


def test_reference_is_needed_only_for_a_kl_term():
    plain = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())
    assert not plain.needs_reference
    assert plain.per_token(INPUTS, ref_logprobs_R=None).values_R.shape == (2,)
    with pytest.raises(AssertionError, match="reference"):
        PolicyObjective(loss=ReinforceConfig(), kl=KLConfig(coefficient=0.1)).per_token(
            INPUTS, ref_logprobs_R=None
        )


def test_a_kl_in_the_reward_is_no_term_of_the_loss():
    kl = KLConfig(coefficient=0.1, form=KLForm.k1, placement=KLPlacement.reward)
    objective = PolicyObjective(loss=ReinforceConfig(), kl=kl)
    assert objective.needs_reference
    result = objective.per_token(INPUTS, ref_logprobs_R=None)
    assert result.values_R.tolist() == pytest.approx([1.0, -1.0])


def test_corrections_weigh_the_policy_loss_and_nothing_else():
    stages = {"truncate": TISConfig()}  # rho = 0.5 and 10, truncated to 2
    kl, entropy = KLConfig(coefficient=0.1), 0.01
    k3 = math.exp(-0.5) - 1 + 0.5
    assert values(OFF, kl=KLConfig(), corrections=stages) == pytest.approx([0.5, -2.0])
    both = values(OFF, kl=kl, entropy_coefficient=entropy, corrections=stages)
    assert both == pytest.approx([0.5 + 0.1 * k3 - 0.02, -2.0 - 0.04])
    dropped = evaluate(OFF, kl=kl, corrections={"icepop": IcePopConfig()})
    assert dropped.values_R.tolist() == pytest.approx([0.5 + 0.1 * k3, 0.0])
    means = dropped.diagnostics_R.means
    assert means["actor/pg_loss"].tolist() == pytest.approx([0.5, 0])
    assert means["correction/icepop/masked_fraction"].tolist() == [False, True]
    assert "actor/ratio/mean" in means
    assert "correction/weight/eff_sample_size" in dropped.diagnostics_R.effective_sizes
    sequence_means = dropped.diagnostics_U.means
    assert sequence_means["rollout_corr/masked_sequence_fraction"].tolist() == [False]


def test_without_corrections_nothing_is_reported_about_them():
    result = evaluate(OFF, kl=KLConfig())
    assert not result.diagnostics_U.means
    assert not any(name.startswith("correction") for name in result.diagnostics_R.means)


def test_the_kl_is_weighted_by_the_ratio_to_the_sampler_not_to_the_anchor():
    kl = KLConfig(coefficient=1.0, importance=KLImportance.stopped)
    k3 = math.exp(-0.5) - 1 + 0.5
    assert values(OFF, kl=kl) == pytest.approx([1.0 + 0.5 * k3, -1.0])


def test_decoupled_ppo_is_clip_with_a_proximal_anchor_and_unbounded_weights():
    responses = ref.random_responses(3, masked=0)
    inputs = ref.tensors(responses)
    objective = PolicyObjective(
        loss=ClipConfig(), kl=KLConfig(), corrections={"tis": TISConfig(high=math.inf)}
    )
    got = objective.per_token(inputs, ref_logprobs_R=None).values_R.tolist()
    expected = [
        math.exp(t.anchor - t.rollout) * value
        for response in responses
        for t, value in zip(response, ref.clip(response, ClipConfig()), strict=True)
    ]
    assert got == pytest.approx(expected)


def test_dropping_tokens_does_not_scale_up_the_others():
    """Denominators stay those before masking: the kept tokens' gradients do not move."""
    responses = ref.random_responses(4, masked=0)
    weights_R = torch.tensor(np.concatenate(ref.weights(responses)))

    def gradient(stages):
        inputs = ref.tensors(responses)
        objective = PolicyObjective(loss=ClipConfig(), kl=KLConfig(), corrections=stages)
        result = objective.per_token(inputs, ref_logprobs_R=None)
        loss = (weights_R * result.values_R).sum()
        return torch.autograd.grad(loss, inputs.policy_logprobs_R)[0], result

    plain, _ = gradient({})
    masked, result = gradient({"geometric_mask": GeometricMaskConfig(low=0.9, high=1.2)})
    dropped = result.diagnostics_R.means["correction/geometric_mask/masked_fraction"]
    assert dropped.any() and not dropped.all()
    assert torch.equal(masked, torch.where(dropped, 0.0, plain))


def test_contradictions_say_so():
    def check(loss, **stages):
        PolicyObjective(loss=loss, kl=KLConfig(), corrections=stages).check()

    check(ClipConfig(), tis=TISConfig(), geometric_mask=GeometricMaskConfig())
    check(AIPOConfig(), geometric_mask=GeometricMaskConfig())
    with pytest.raises(UserError, match=r"corrections\.two\.kind=tis is already used.*\.one"):
        check(ClipConfig(), one=TISConfig(), two=TISConfig())
    for loss in (AIPOConfig(), DPPOConfig()):
        for stage in (TISConfig(), IcePopConfig()):
            with pytest.raises(UserError, match=f"with loss={loss.kind} would count"):
                check(loss, stage=stage)
