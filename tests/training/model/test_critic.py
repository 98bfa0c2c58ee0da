"""A value is read before its token, and packing changes none."""

from pathlib import Path

import pytest
import torch
from packed_groups import pack_into, random_groups, relative_difference
from reward_models import load_plain_classifier, plain_values

from rlpost.errors import UserError
from rlpost.models.directory.config_file import ModelKind
from rlpost.training.model.attention import PackedLayout
from rlpost.training.model.classifier_heads import is_classifier
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.packed_model import ModelInputs
from rlpost.training.packing.batch import Block

CPU = torch.device("cpu")


def load(path: Path, *, dtype=torch.float32, **options):
    model = TrainedModel.critic(str(path), policy_path=str(path))
    return model.load(dtype=dtype, **options)


def values_of(critic, inputs):
    (values_R,) = critic(inputs)
    return values_R


def one_batch(*, share_prompts: bool = True):
    return pack_into(*random_groups(), share_prompts=share_prompts).batches[0][0]


def gradient(model, loss) -> dict[str, torch.Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_values_and_gradients_equal_separate_sequences(tiny_reward, share_prompts, checkpointing):
    batch = one_batch(share_prompts=share_prompts)
    critic = load(tiny_reward, gradient_checkpointing=checkpointing)
    plain = load_plain_classifier(tiny_reward)
    values_R, expected_R = (
        values_of(critic, ModelInputs.of(batch, device=CPU)),
        plain_values(plain, batch),
    )
    torch.testing.assert_close(values_R, expected_R, atol=2e-5, rtol=0)
    weight_R = torch.linspace(-1, 1, len(expected_R))
    ours = gradient(critic, (weight_R * values_R).sum())
    theirs = gradient(plain, (weight_R * expected_R).sum())
    assert relative_difference(ours, theirs) < 1e-5


def test_a_value_does_not_know_its_own_token(tiny_reward):
    critic, batch = load(tiny_reward), one_batch()
    inputs = ModelInputs.of(batch, device=CPU)
    start, end = batch.blocks[0].responses[0]
    before_R = values_of(critic, inputs)
    last = int((inputs.read_R == end - 2).nonzero()[-1]) if end - start > 1 else 0
    inputs.token_ids_1T[0, end - 1] += 1  # the last token of the first response
    assert torch.equal(values_of(critic, inputs)[last], before_R[last])
    inputs.token_ids_1T[0, batch.blocks[0].prompt[1] - 1] += 1  # the token before the first
    assert (values_of(critic, inputs)[0] - before_R[0]).abs() > 1e-3


def test_a_leak_between_responses_is_seen(tiny_reward):
    """Negative control: responses that see each other change the values visibly."""
    batch = one_batch()
    inputs = ModelInputs.of(batch, device=CPU)
    leaking = PackedLayout.of((Block(prompt=(0, batch.num_tokens), responses=()),), device=CPU)
    leaked_R = values_of(load(tiny_reward), ModelInputs(**{**vars(inputs), "layout": leaking}))
    difference_R = leaked_R - plain_values(load_plain_classifier(tiny_reward), batch)
    assert difference_R.abs().max() > 0.1


@pytest.mark.parametrize("fixture", ["tiny_model", "tiny_untied_model"])
def test_a_causal_lm_starts_with_every_value_zero(fixture, request):
    path = request.getfixturevalue(fixture)
    critic = load(path)
    assert not is_classifier(str(path), kind=ModelKind.critic)
    assert not values_of(critic, ModelInputs.of(one_batch(), device=CPU)).any()
    assert not [name for name, _ in critic.named_parameters() if "lm_head" in name]


def test_a_bfloat16_critic_gives_float32_values_near_the_exact_ones(tiny_reward):
    batch = one_batch()
    critic = load(tiny_reward, dtype=torch.bfloat16)
    values_R = values_of(critic, ModelInputs.of(batch, device=CPU))
    expected_R = plain_values(load_plain_classifier(tiny_reward), batch)
    assert values_R.dtype is torch.float32
    assert (values_R - expected_R).abs().mean() < 0.1


def save(tmp_path: Path, config, auto) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto.from_config(config).save_pretrained(tmp_path)
    return tmp_path


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_another_architecture_needs_no_code_and_loses_its_dropout(tmp_path):
    from transformers import AutoModelForSequenceClassification, GPTNeoXConfig

    config = GPTNeoXConfig(**SIZES, num_labels=1, hidden_dropout=0.5, attention_dropout=0.5)
    path = save(tmp_path, config, AutoModelForSequenceClassification)
    batch = pack_into(*random_groups(vocabulary=64)).batches[0][0]
    values_R = values_of(load(path), ModelInputs.of(batch, device=CPU))
    expected_R = plain_values(load_plain_classifier(path).eval(), batch)
    torch.testing.assert_close(values_R, expected_R, atol=2e-5, rtol=0)


def test_what_gives_no_value_is_refused(tmp_path):
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        BloomConfig,
        LlamaConfig,
    )

    two = save(tmp_path / "two", LlamaConfig(**SIZES), AutoModelForSequenceClassification)
    with pytest.raises(UserError, match=r"critic\.init_from.* one output"):
        load(two)
    bloom = BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2)
    with pytest.raises(UserError, match="code of its own"):
        load(save(tmp_path / "bloom", bloom, AutoModelForCausalLM))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"critic\.init_from"):
        load(tmp_path / "empty")
