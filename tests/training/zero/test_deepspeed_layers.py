"""Stage 3 gathers a layer at once, and computes what it computes without, up to rounding."""

import pytest
import torch
from one_rank import trainer
from packed_groups import pack_into, random_groups, relative_difference
from torch import nn

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.training.zero import deepspeed_engine, deepspeed_layers

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())


def train(path, **options) -> tuple[list[float], dict[str, torch.Tensor], int]:
    """Gradient norms, final weights, and how many modules are fetched in a pass."""
    norms = []
    with trainer(path, zero_stage=3, lr=1e-2, **options) as built:
        for step in (1, 2):
            (batches,) = pack_into(*random_groups(seed=step), num_micro_batches=2).batches
            built.forward_backward(batches, OBJECTIVE)
            norms.append(built.optim_step(step)["actor/grad_norm"])
        hooks = len(built.engine.optimizer.parameter_offload.forward_hooks) // 2
        return norms, {name: tensor.clone() for name, tensor in built.served.tensors()}, hooks


def test_a_layer_is_fetched_at_once_and_only_rounding_changes(tiny_model, monkeypatch):
    norms, weights, hooks = train(tiny_model, gradient_checkpointing=True)
    monkeypatch.setattr(deepspeed_engine, "gather_by_layer", lambda engine: None)
    expected_norms, expected, all_hooks = train(tiny_model, gradient_checkpointing=True)
    assert norms == pytest.approx(expected_norms, rel=1e-6)
    assert norms != pytest.approx(norms[::-1], rel=1e-3)
    assert relative_difference(weights, expected) < 1e-5
    assert hooks < all_hooks / 2


def test_layers_that_would_not_fit_twice_stay_divided(monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=3, **sizes))
    found = deepspeed_layers.decoder_layers(model)
    assert found == list(model.model.layers)
    values = {deepspeed_layers.num_values(layer.parameters()) for layer in found}
    assert values == {4 * 16 * 16 + 3 * 16 * 32 + 2 * 16}
    monkeypatch.setattr(deepspeed_layers, "MAX_LAYER", max(values) - 1)
    assert not deepspeed_layers.decoder_layers(model)
    assert not deepspeed_layers.decoder_layers(nn.Linear(2, 2))
