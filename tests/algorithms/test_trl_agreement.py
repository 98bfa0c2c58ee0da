"""Our losses give TRL's loss and gradient on the same batch; skipped where TRL is absent.

TRL's arithmetic lives in methods of trainers, so they are called on a stand-in that has
only the settings they read. Verified with TRL 1.16.0.
"""

from collections import defaultdict
from types import SimpleNamespace

import loss_references as ref
import numpy as np
import pytest
import torch

from rlpost.algorithms.corrections.responses import OPSMConfig
from rlpost.algorithms.kl import KLConfig, KLImportance
from rlpost.algorithms.losses import ClipConfig
from rlpost.algorithms.losses.sequence import GMPOConfig, GSPOConfig
from rlpost.algorithms.losses.weighted import CISPOConfig, SAPOConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.algorithms.reduce import Aggregation, ReductionConfig

pytest.importorskip("trl", exc_type=ImportError)
from trl import GRPOTrainer
from trl.experimental.gmpo import GMPOTrainer

TOKEN_MEAN = ReductionConfig()
SEQUENCE_MEAN = ReductionConfig(aggregation=Aggregation.sequence_mean)
CONSTANT = ReductionConfig(aggregation=Aggregation.constant, constant_tokens=12)
DEFAULTS = {
    "loss_type": "grpo",
    "importance_sampling_level": "token",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "beta": 0.0,
    "off_policy_mask_threshold": None,
    "delta": None,
    "max_completion_length": 12,
    "trainer": GRPOTrainer,
}


class _OneProcess:
    num_processes = 1

    def gather(self, tensor):
        return tensor

    def reduce(self, tensor, reduction):
        return tensor


def trl_loss(responses, ref_logprobs, **settings):
    """TRL's loss of one padded batch, and its gradient at every response token."""
    settings = DEFAULTS | settings
    width = max(map(len, responses))

    def padded(name):
        rows = [[getattr(t, name) for t in r] + [0.0] * (width - len(r)) for r in responses]
        return torch.tensor(rows, dtype=torch.float64)

    policy, counted = padded("policy").requires_grad_(), padded("counted")
    ref_padded = torch.zeros_like(policy).detach()
    for row, values in zip(ref_padded, ref_logprobs, strict=True):
        row[: len(values)] = torch.as_tensor(values)
    trainer_type = settings.pop("trainer")
    stand_in = SimpleNamespace(
        **settings,
        args=SimpleNamespace(
            delta=settings["delta"],
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            use_bias_correction_kl=True,
            steps_per_generation=1,
        ),
        model=SimpleNamespace(training=True),
        accelerator=_OneProcess(),
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=1.0,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        _get_per_token_logps_and_entropies=lambda *_, **__: (policy, policy.detach() * 0, None),
    )
    ids = torch.zeros(policy.shape, dtype=torch.int64)
    loss = trainer_type._compute_loss(
        stand_in,
        stand_in.model,
        {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1] + 1,
            "completion_ids": ids,
            "completion_mask": counted,
            "advantages": torch.tensor([r[0].advantage for r in responses], dtype=torch.float64),
            "old_per_token_logps": padded("anchor"),
            "sampling_per_token_logps": padded("rollout"),
            "ref_per_token_logps": ref_padded,
            "num_items_in_batch": counted.sum(),
        },
    )
    (gradient,) = torch.autograd.grad(loss, policy)
    flat = [gradient[s, : len(r)] for s, r in enumerate(responses)]
    return loss.item(), torch.cat(flat).numpy()


def our_loss(responses, ref_logprobs, reduction, objective):
    inputs = ref.tensors(responses)
    weights_R = torch.tensor(np.concatenate(ref.weights(responses, reduction)))
    result = objective.per_token(inputs, ref_logprobs_R=torch.tensor(np.concatenate(ref_logprobs)))
    loss = (weights_R * result.values_R).sum()
    return loss.item(), torch.autograd.grad(loss, inputs.policy_logprobs_R)[0].numpy()


def objective(loss, **more):
    return PolicyObjective(loss=loss, **{"kl": KLConfig(), **more})


CASES = {
    "grpo": (objective(ClipConfig()), SEQUENCE_MEAN, {}),
    "dapo": (
        objective(ClipConfig(clip_high=0.28)),
        TOKEN_MEAN,
        {"loss_type": "dapo", "epsilon_high": 0.28},
    ),
    "dr_grpo": (objective(ClipConfig()), CONSTANT, {"loss_type": "dr_grpo"}),
    "two-sided": (objective(ClipConfig(dual_clip=1.5)), SEQUENCE_MEAN, {"delta": 1.5}),
    "gspo": (
        objective(GSPOConfig(clip_low=0.1, clip_high=0.15)),
        SEQUENCE_MEAN,
        {"importance_sampling_level": "sequence", "epsilon_low": 0.1, "epsilon_high": 0.15},
    ),
    # TRL's number is the bound itself, ours the offset above 1.
    "cispo": (
        objective(CISPOConfig(clip_high=0.3)),
        TOKEN_MEAN,
        {"loss_type": "cispo", "epsilon_high": 1.3},
    ),
    "sapo": (objective(SAPOConfig()), SEQUENCE_MEAN, {"loss_type": "sapo"}),
    "gmpo": (
        objective(GMPOConfig(log_clip_low=0.2, log_clip_high=0.3)),
        SEQUENCE_MEAN,
        {"trainer": GMPOTrainer, "epsilon_low": 0.2, "epsilon_high": 0.3},
    ),
    "opsm": (
        objective(ClipConfig(), corrections={"opsm": OPSMConfig(delta=0.01)}),
        TOKEN_MEAN,
        {"loss_type": "dapo", "off_policy_mask_threshold": 0.01},
    ),
}


def batch(seed):
    # TRL takes the mean over all rows, so no row may be masked entirely; nothing is garbage.
    responses = [
        [t for t in r if t.counted] for r in ref.random_responses(seed) if any(t.counted for t in r)
    ]
    rng = np.random.default_rng(seed)
    return responses, [np.array([t.policy for t in r]) + rng.normal(size=len(r)) for r in responses]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_agree(case, seed):
    ours, reduction, settings = CASES[case]
    responses, ref_logprobs = batch(seed)
    loss, gradient = our_loss(responses, ref_logprobs, reduction, ours)
    its_loss, its_gradient = trl_loss(responses, ref_logprobs, **settings)
    assert loss == pytest.approx(its_loss, rel=1e-6)
    np.testing.assert_allclose(gradient, its_gradient, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_the_kl_term_agrees_where_the_sampler_is_the_anchor(seed):
    """TRL weighs its KL by pi / pi_old with its gradient; ours by pi / pi_rollout."""
    responses, ref_logprobs = batch(seed)
    responses = [[ref.replace(t, rollout=t.anchor) for t in r] for r in responses]
    kl = KLConfig(coefficient=0.1, importance=KLImportance.flowing)
    loss, gradient = our_loss(responses, ref_logprobs, TOKEN_MEAN, objective(ClipConfig(), kl=kl))
    its_loss, its_gradient = trl_loss(responses, ref_logprobs, loss_type="dapo", beta=0.1)
    assert loss == pytest.approx(its_loss, rel=1e-6)
    np.testing.assert_allclose(gradient, its_gradient, rtol=1e-6, atol=1e-10)


def test_cispo_with_trls_number_taken_as_ours_is_another_loss():
    """Negative control, and the trap: 0.3 there clamps every on-policy weight to 0.3."""
    responses, ref_logprobs = batch(0)
    responses = ref.on_policy(responses)
    ours, reduction, settings = CASES["cispo"]
    _, gradient = our_loss(responses, ref_logprobs, reduction, ours)
    _, trls = trl_loss(responses, ref_logprobs, **settings | {"epsilon_high": 0.3})
    np.testing.assert_allclose(trls, 0.3 * gradient, rtol=1e-6)
