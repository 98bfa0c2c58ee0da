"""Off-policy corrections against plain Python and the laws they promise."""

import math
from dataclasses import replace

import loss_references as ref
import numpy as np
import pytest
import torch

from rlpost.algorithms.corrections import correct, corrections
from rlpost.algorithms.corrections.responses import (
    GeometricMaskConfig,
    OPSMConfig,
    SequenceMaskConfig,
    VetoConfig,
)
from rlpost.algorithms.corrections.tokens import IcePopConfig, TISConfig, TokenMaskConfig
from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.losses import PolicyLossInputs
from rlpost.bounds import check_config
from rlpost.errors import UserError

# The defaults, and numbers that decide both ways on random responses.
CONFIGS = [
    TISConfig(),
    TISConfig(low=0.8, high=1.2),
    TISConfig(high=math.inf),
    IcePopConfig(),
    IcePopConfig(low=0.8, high=1.3),
    TokenMaskConfig(),
    TokenMaskConfig(low=0.9, high=1.5),
    SequenceMaskConfig(),
    SequenceMaskConfig(low=0.7, high=1.2),
    GeometricMaskConfig(),
    GeometricMaskConfig(low=0.9, high=1.2),
    VetoConfig(),
    VetoConfig(threshold=0.7),
    OPSMConfig(),
    OPSMConfig(delta=0.01),
]


def label(config):
    changed = [str(v) for k, v in vars(config).items() if v != getattr(type(config)(), k)]
    return "-".join([config.kind, *changed])


every_config = pytest.mark.parametrize("config", CONFIGS, ids=label)


def weight(inputs, config):
    return corrections.get(config.kind).target(inputs, config).weight_R


def expected_weights(responses, config):
    return [w for response in responses for w in ref.CORRECTIONS[config.kind](response, config)]


def clean(responses):
    """The reference's exp() cannot take garbage under the mask."""
    return [
        [t if t.counted else replace(t, policy=-1, frozen=-1, anchor=-1, rollout=-1) for t in row]
        for row in responses
    ]


def test_every_registered_correction_has_a_reference_and_is_tested():
    names = {entry.name for entry in corrections}
    assert names == set(ref.CORRECTIONS)
    assert names == {config.kind for config in CONFIGS}
    for entry in corrections:
        assert entry.config().kind == entry.name
        assert isinstance(entry.config.needs_proximal, bool)
        assert isinstance(entry.config.weighs, bool)
        check_config(entry.config(), "corrections")


@every_config
def test_weights_equal_the_reference(config):
    decisions = set()
    for seed in range(12):
        responses = ref.random_responses(seed, token_advantages=seed % 3 == 0)
        got = weight(ref.tensors(responses), config).tolist()
        wanted = expected_weights(clean(responses), config)
        counted = [t.counted for response in responses for t in response]
        for value, target, counts in zip(got, wanted, counted, strict=True):
            assert math.isfinite(value)
            if counts:
                assert value == pytest.approx(target, rel=1e-6)
                decisions.add(round(target, 6))
    if label(config) != config.kind and config.kind != "tis":
        assert 0 in decisions and len(decisions) > 1


@every_config
def test_where_the_policies_agree_nothing_is_corrected(config):
    responses = ref.on_policy(ref.random_responses(0, masked=0))
    inputs = ref.tensors(responses)
    stage = corrections.get(config.kind).target(inputs, config)
    assert (stage.weight_R == 1).all()
    assert not any(values_R.any() for values_R in stage.diagnostics.means.values())


@every_config
def test_only_the_stages_that_say_so_need_a_proximal_anchor(config):
    """With the sampler as the anchor rho is 1 everywhere, however far the policy has moved."""
    responses = [
        [replace(t, anchor=t.rollout, policy=-4.0, frozen=-4.0, advantage=-1.0) for t in response]
        for response in ref.random_responses(0, masked=0)
    ]
    inert = bool((weight(ref.tensors(responses), config) == 1).all())
    assert inert == config.needs_proximal


@every_config
def test_a_weight_carries_no_gradient(config):
    inputs = ref.tensors(ref.random_responses(1))
    anchored = replace(inputs, anchor_logprobs_R=inputs.anchor_logprobs_R.requires_grad_())
    assert not weight(anchored, config).requires_grad
    assert not correct(anchored, [config]).weight_R.requires_grad


@every_config
def test_a_weight_does_not_depend_on_the_split_or_the_order(config):
    responses = ref.random_responses(5)
    inputs = ref.tensors(responses)
    whole = weight(inputs, config)
    parts = [weight(ref.tensors([response]), config) for response in responses]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-12)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    shuffled = PolicyLossInputs(
        **{k: v[order] if isinstance(v, torch.Tensor) else v for k, v in vars(inputs).items()}
    )
    assert torch.allclose(weight(shuffled, config), whole[order], atol=1e-12)


@pytest.mark.parametrize("kind", ["sequence_mask", "geometric_mask", "veto", "opsm"])
def test_a_response_decided_in_parts_is_decided_otherwise(kind):
    """Negative control: why packing keeps responses whole."""
    bad = ref.Token(policy=-9, frozen=-9, anchor=-12, rollout=-0.5, advantage=-1)
    good = ref.Token(policy=-1, frozen=-1, anchor=-1, rollout=-1, advantage=-1)
    config = corrections.get(kind).config()
    together = weight(ref.tensors([[good, bad]]), config).tolist()
    apart = weight(ref.tensors([[good], [bad]]), config).tolist()
    assert together == [0, 0]
    assert apart == [1, 0]


@every_config
def test_masked_tokens_decide_nothing(config):
    responses = ref.random_responses(6)
    other = [
        [t if t.counted else replace(t, anchor=-1e9, rollout=-0.1, advantage=-99.0) for t in row]
        for row in responses
    ]
    counted = ref.tensors(responses).counted_R
    assert torch.equal(
        weight(ref.tensors(responses), config)[counted],
        weight(ref.tensors(other), config)[counted],
    )


@every_config
def test_an_all_masked_batch_is_safe(config):
    responses = [[replace(t, counted=False) for t in row] for row in ref.random_responses(0)]
    assert weight(ref.tensors(responses, dtype=torch.float32), config).isfinite().all()


def by_hand(rho):
    """One response per row of rho, the sampler at -2."""
    rows = [
        [
            ref.Token(policy=-1, frozen=-1, anchor=math.log(r) - 2, rollout=-2, advantage=1.0)
            for r in row
        ]
        for row in rho
    ]
    return ref.tensors(rows)


def test_by_hand():
    inputs = by_hand([[0.1, 1.0, 4.0], [6.0], [1.0, 1.005]])
    assert weight(inputs, TISConfig()).tolist() == pytest.approx([0.1, 1, 2, 2, 1, 1.005])
    assert weight(inputs, IcePopConfig()).tolist() == pytest.approx([0, 1, 4, 0, 1, 1.005])
    assert weight(inputs, TokenMaskConfig()).tolist() == [0, 1, 0, 0, 1, 1]
    assert weight(inputs, SequenceMaskConfig()).tolist() == [0, 0, 0, 0, 1, 1]
    assert weight(inputs, GeometricMaskConfig()).tolist() == [0, 0, 0, 0, 1, 1]
    assert weight(inputs, VetoConfig(threshold=0.2)).tolist() == [0, 0, 0, 1, 1, 1]


def test_stages_multiply_and_their_order_means_nothing():
    inputs = by_hand([[0.1, 1.0, 4.0], [6.0], [1.0, 1.005]])
    stages = [TISConfig(), VetoConfig(threshold=0.2), TokenMaskConfig()]
    result = correct(inputs, stages)
    assert result.weight_R.tolist() == pytest.approx([0, 0, 0, 0, 1, 1.005])
    assert torch.equal(result.weight_R, correct(inputs, stages[::-1]).weight_R)
    assert correct(inputs, []).weight_R.tolist() == [1] * 6


def test_metrics_count_tokens_and_responses_once():
    inputs = by_hand([[0.1, 1.0, 4.0], [6.0], [1.0, 1.005], [1.0]])
    inputs = replace(inputs, counted_R=torch.tensor([False] + [True] * 6))
    result = correct(inputs, [TokenMaskConfig(), TISConfig()])
    tally = Tally()
    tally.add(result.diagnostics, counted_R=inputs.counted_R)
    counted_I = torch.zeros(inputs.num_items).index_add(0, inputs.item_R, inputs.counted_R.float())
    tally.add(result.diagnostics_I, counted_R=counted_I > 0)
    metrics = tally.metrics()
    assert metrics["rollout_corr/rollout_rs_masked_fraction"] == pytest.approx(2 / 6)
    assert metrics["rollout_corr/masked_sequence_fraction"] == pytest.approx(1 / 4)
    assert metrics["correction/token_mask/masked_fraction"] == pytest.approx(2 / 6)
    assert metrics["correction/tis/clipped_fraction"] == pytest.approx(2 / 6)
    assert metrics["correction/weight/mean"] == pytest.approx((3 + 1.005) / 6)
    assert metrics["correction/weight/max"] == pytest.approx(1.005)
    assert 0.66 < metrics["correction/weight/eff_sample_size"] < 0.67


def test_weights_are_unbiased_where_nothing_is_clipped():
    """E_rollout[rho f] = E_anchor[f], by exact expectation over a vocabulary of three."""
    rollout, anchor = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    f = np.array([1.0, -2.0, 5.0])
    row = [
        ref.Token(policy=-1, frozen=-1, anchor=math.log(a), rollout=math.log(b), advantage=1.0)
        for a, b in zip(anchor, rollout, strict=True)
    ]
    for config, unbiased in ((TISConfig(), True), (TISConfig(high=1.1), False)):
        w = weight(ref.tensors([row]), config).numpy()
        assert (rollout @ (w * f) == pytest.approx(anchor @ f)) == unbiased


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TISConfig(low=1.0), r"corrections\.tis\.low must be in \[0, 1\), got 1\.0; TIS uses 0"),
        (TISConfig(high=1.0), r"corrections\.tis\.high must be in \(1, inf\], got 1\.0.*2\.0"),
        (TISConfig(high=math.nan), r"corrections\.tis\.high"),
        (IcePopConfig(low=0.0), r"corrections\.icepop\.low must be in \(0, 1\).*IcePop"),
        (IcePopConfig(high=math.inf), r"corrections\.icepop\.high must be in \(1, "),
        (TokenMaskConfig(low=1.5), r"corrections\.token_mask\.low"),
        (SequenceMaskConfig(high=0.5), r"corrections\.sequence_mask\.high"),
        (GeometricMaskConfig(low=math.nan), r"corrections\.geometric_mask\.low"),
        (VetoConfig(threshold=0.0), r"corrections\.veto\.threshold must be in \(3e-09, 1\)"),
        (VetoConfig(threshold=1.0), r"corrections\.veto\.threshold"),
        (OPSMConfig(delta=0.0), r"corrections\.opsm\.delta must be in \(0, "),
        (OPSMConfig(delta=math.inf), r"corrections\.opsm\.delta must be in \(0, "),
    ],
)
def test_settings_out_of_range_say_so(config, message):
    with pytest.raises(UserError, match=message):
        check_config(config, f"corrections.{config.kind}")


@every_config
def test_usual_settings_pass(config):
    check_config(config, "corrections")
