"""A packed forward and backward pass equals one ordinary pass per sequence."""

import pytest
import torch
from packed_groups import (
    load_plain,
    load_policy,
    pack_into,
    plain_scores,
    random_groups,
    relative_difference,
    sequences_of,
)

from rlpost.errors import UserError
from rlpost.training.model import packed_model
from rlpost.training.model.attention import PackedLayout
from rlpost.training.model.heads import LogprobHead
from rlpost.training.model.loading import verify_packing
from rlpost.training.model.packed_model import ModelInputs
from rlpost.training.packing.batch import Block

CPU = torch.device("cpu")


def one_batch(*, share_prompts: bool = True):
    return pack_into(*random_groups(), share_prompts=share_prompts).batches[0][0]


def scores(policy, batch, *, temperature: float = 1.0, **options):
    return policy(ModelInputs.of(batch, device=CPU), temperature=temperature, **options)


def gradient(model, loss) -> dict[str, torch.Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("fixture", ["tiny_model", "tiny_untied_model"])
def test_scores_and_gradients_equal_separate_sequences(
    fixture, checkpointing, share_prompts, attention, request
):
    path = request.getfixturevalue(fixture)
    batch = one_batch(share_prompts=share_prompts)
    policy = load_policy(path, gradient_checkpointing=checkpointing)
    plain = load_plain(path, attention=attention)
    logprobs_R, entropy_R, _ = scores(policy, batch, temperature=0.8)
    expected_R, expected_entropy_R = plain_scores(plain, batch, temperature=0.8)
    torch.testing.assert_close(logprobs_R, expected_R, atol=2e-5, rtol=0)
    torch.testing.assert_close(entropy_R, expected_entropy_R, atol=2e-5, rtol=0)
    weight_R = torch.linspace(-1, 1, len(expected_R))
    ours = gradient(policy.model, (weight_R * logprobs_R).sum() + 0.1 * entropy_R.sum())
    theirs = gradient(plain, (weight_R * expected_R).sum() + 0.1 * expected_entropy_R.sum())
    assert relative_difference(ours, theirs) < 1e-5


def test_a_leak_between_responses_is_seen(tiny_model):
    """Negative control: responses that see each other change the scores visibly."""
    batch = one_batch()
    inputs = ModelInputs.of(batch, device=CPU)
    leaking = PackedLayout.of((Block(prompt=(0, batch.num_tokens), responses=()),), device=CPU)
    leaked_R, *_ = load_policy(tiny_model)(
        ModelInputs(**{**vars(inputs), "layout": leaking}), temperature=1.0
    )
    difference_R = leaked_R - plain_scores(load_plain(tiny_model), batch)[0]
    assert difference_R.abs().max() > 0.1


def test_bfloat16_scores_are_near_and_float32(tiny_model):
    batch = one_batch()
    policy = load_policy(tiny_model, dtype=torch.bfloat16)
    logprobs_R, *_ = scores(policy, batch)
    assert logprobs_R.dtype is torch.float32
    expected_R, _ = plain_scores(load_plain(tiny_model), batch)
    assert (logprobs_R - expected_R).abs().mean() < 0.1


def test_checkpointing_really_recomputes_the_layers(tiny_model):
    def forward_calls(checkpointing: bool) -> int:
        policy = load_policy(tiny_model, gradient_checkpointing=checkpointing)
        calls = []
        layer = policy.model.model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
        scores(policy, one_batch())[0].sum().backward()
        return len(calls)

    assert forward_calls(False) == 1
    assert forward_calls(True) == 2


def save(tmp_path, config) -> str:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    return str(tmp_path)


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_another_architecture_needs_no_code_and_loses_its_dropout(tmp_path):
    from transformers import Qwen3Config

    path = save(tmp_path, Qwen3Config(**SIZES, attention_dropout=0.5))
    batch = pack_into(*random_groups(vocabulary=64)).batches[0][0]
    policy = load_policy(path)
    assert policy.training
    plain = load_plain(path).eval()
    torch.testing.assert_close(
        scores(policy, batch)[0], plain_scores(plain, batch)[0], atol=2e-5, rtol=0
    )


def windowed_architectures() -> list:
    """Windows that end within shared prompts; the caps of Gemma 2 are small enough to bite."""
    from transformers import Gemma2Config, Gemma3TextConfig, MistralConfig

    alternating = ["sliding_attention", "full_attention"]
    caps = {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0}
    return [
        pytest.param(MistralConfig(**SIZES, sliding_window=4), id="mistral"),
        pytest.param(Gemma2Config(**SIZES, sliding_window=4, **caps), id="gemma2"),
        pytest.param(
            Gemma3TextConfig(**SIZES, sliding_window=4, layer_types=alternating), id="gemma3"
        ),
    ]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("config", windowed_architectures())
def test_windows_and_caps_equal_transformers_own_eager_attention(tmp_path, config, checkpointing):
    path = save(tmp_path, config)
    batch = pack_into(*random_groups(vocabulary=64)).batches[0][0]
    policy = load_policy(path, gradient_checkpointing=checkpointing)
    plain = load_plain(path, attention="eager").eval()
    logprobs_R, *_ = scores(policy, batch)
    expected_R, _ = plain_scores(plain, batch)
    torch.testing.assert_close(logprobs_R, expected_R, atol=2e-5, rtol=0)
    weight_R = torch.linspace(-1, 1, len(expected_R))
    ours = gradient(policy.model, (weight_R * logprobs_R).sum())
    theirs = gradient(plain, (weight_R * expected_R).sum())
    assert relative_difference(ours, theirs) < 1e-5
    for name in ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"):
        if (value := getattr(config, name, None)) is not None:  # a control: each matters here
            changed = {**config.to_dict(), name: type(value)(1000)}
            other = save(tmp_path / name, type(config)(**changed))
            plain = load_plain(other, attention="eager").eval()
            assert (logprobs_R - plain_scores(plain, batch)[0]).abs().max() > 1e-3, name


def refused_architectures() -> list:
    from transformers import BloomConfig, FalconConfig, GraniteConfig

    small = {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 2}
    return [
        pytest.param(
            GraniteConfig(**SIZES, logits_scaling=8.0), r"changes its logits.*=8", id="scaled"
        ),
        pytest.param(BloomConfig(**small), "code of its own", id="own attention"),
        pytest.param(
            FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2),
            "code of its own",
            id="unknown attention",
        ),
    ]


@pytest.mark.parametrize(("config", "message"), refused_architectures())
def test_what_packing_would_compute_wrongly_is_refused(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        load_policy(save(tmp_path, config))


def test_verification_finds_a_model_that_ignores_the_layout(tiny_model, monkeypatch):
    policy = load_policy(tiny_model)
    whole = PackedLayout.of((Block(prompt=(0, 12), responses=()),), device=CPU)
    monkeypatch.setattr(packed_model.PackedLayout, "of", lambda blocks, device: whole)
    with pytest.raises(UserError, match="other log-probs"):
        verify_packing(policy, LogprobHead(chunk=16), field="model.path")


def test_a_directory_without_a_model_is_the_users_to_fix(tmp_path):
    with pytest.raises(UserError, match=r"model\.path"):
        load_policy(tmp_path)


def test_the_test_helper_undoes_the_packing():
    groups, advantages = random_groups()
    found = sorted(sequences_of(pack_into(groups, advantages).batches[0][0]))
    expected = [
        (list(group.prompt.token_ids), list(e.response_ids))
        for group in groups
        for e in group.episodes
    ]
    assert found == sorted(expected)
