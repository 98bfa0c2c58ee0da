"""Sizes of models, read from configs of transformers."""

import pytest
from transformers import (
    DeepseekV3Config,
    Ernie4_5_MoeConfig,
    LlamaConfig,
    MixtralConfig,
    Qwen3MoeConfig,
)

from rlpost.models.shape import Experts, shape_of


def test_a_dense_model_has_no_experts():
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    shape = shape_of(config, parameters=1000)
    assert shape.experts is None and shape.active_parameters == 1000
    assert shape.feed_forward == config.intermediate_size and not shape.tied
    assert shape.kept_values == config.num_hidden_layers * 2 * 2 * 16


@pytest.mark.parametrize(
    ("config", "experts", "inner"),
    [
        (
            Qwen3MoeConfig(num_experts=16, num_experts_per_tok=4, moe_intermediate_size=32),
            Experts(number=16, per_token=4, feed_forward=32, layers=24),
            128,
        ),
        (
            MixtralConfig(intermediate_size=96, num_hidden_layers=3),
            Experts(number=8, per_token=2, feed_forward=96, layers=3),
            192,
        ),
        (
            DeepseekV3Config(num_hidden_layers=6, first_k_dense_replace=1),
            Experts(number=256, per_token=8, feed_forward=2048, layers=5),
            9 * 2048,  # one is shared
        ),
        (
            Qwen3MoeConfig(
                num_experts=8,
                num_experts_per_tok=2,
                moe_intermediate_size=32,
                num_hidden_layers=9,
                decoder_sparse_step=2,
                mlp_only_layers=[1],
            ),
            Experts(number=8, per_token=2, feed_forward=32, layers=3),
            64,
        ),
        (
            Ernie4_5_MoeConfig(
                moe_num_experts=16,
                moe_k=2,
                moe_num_shared_experts=1,
                moe_intermediate_size=32,
                num_hidden_layers=4,
            ),
            Experts(number=16, per_token=2, feed_forward=32, layers=3),
            96,
        ),
    ],
)
def test_experts_of_each_family(config, experts, inner):
    shape = shape_of(config, parameters=10**12)
    assert (shape.experts, shape.feed_forward) == (experts, inner)
    others = experts.layers * (experts.number - experts.per_token) * 3 * shape.width
    assert shape.active_parameters == 10**12 - others * experts.feed_forward


def test_there_are_no_more_experts_than_weights():
    """A config may not say, in words that are known here, which layers are dense."""
    config = MixtralConfig(intermediate_size=96, hidden_size=64, num_hidden_layers=3)
    one = 8 * 3 * 64 * 96
    assert shape_of(config, parameters=2 * one + 5).experts.layers == 2
    assert shape_of(config, parameters=2 * one + 5).active_parameters > 0


def test_latent_attention_keeps_one_vector_a_token():
    config = DeepseekV3Config(num_hidden_layers=2)
    assert shape_of(config, parameters=1).kept_values == 2 * (512 + 64)
