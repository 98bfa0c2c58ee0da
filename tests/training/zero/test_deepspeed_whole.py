"""Divided weights are whole where a pass reads them, and divided again behind it."""

from collections.abc import Iterator

import pytest
import torch

from rlpost.errors import UserError
from rlpost.network import free_port
from rlpost.training.model.loading import TrainedModel, verify_packing
from rlpost.training.model.packed_model import PackedModel
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero import deepspeed_engine as ds
from rlpost.training.zero.deepspeed_parts import divide
from rlpost.training.zero.deepspeed_whole import DividedWeights, whole_in_passes

FIELD = "model.path"


@pytest.fixture
def model(tiny_model) -> TrainedModel:
    return TrainedModel.policy(str(tiny_model), TrainerConfig(logprob_chunk=32))


@pytest.fixture
def module(model) -> Iterator[PackedModel]:
    """The model on one rank, which divides it, without an engine."""
    import deepspeed

    ds.join_ranks(rank=0, world_size=1, master_address="127.0.0.1", master_port=free_port())
    try:
        hollow = model.load_hollow(dtype=torch.float32)
        divide(hollow, dtype=torch.float32, learns=True, field=FIELD)
        yield hollow.module
    finally:
        deepspeed.comm.destroy_process_group()


def whole_values(module: PackedModel) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_packing_is_verified_layer_by_layer(model, module):
    decoder, seen = module.model.get_decoder(), []
    hooks = [
        layer.register_forward_hook(lambda *_: seen.append(whole_values(module)))
        for layer in decoder.layers
    ]
    assert whole_values(module) == 0
    with whole_in_passes(module):
        verify_packing(module, model.head, field=FIELD)
    layer = sum(p.ds_numel for p in decoder.layers[0].parameters())
    assert layer in seen and max(seen) <= layer
    assert whole_values(module) == 0
    for hook in hooks:
        hook.remove()
    # Negative controls: a layer that knows how many tokens there are is found out, and outside
    # nobody makes a weight whole.
    decoder.layers[0].register_forward_hook(lambda _, args, output: output + args[0].shape[1])
    with whole_in_passes(module), pytest.raises(UserError, match="gives other log-probs on packed"):
        verify_packing(module, model.head, field=FIELD)
    assert whole_values(module) == 0
    with pytest.raises(RuntimeError):
        verify_packing(module, model.head, field=FIELD)


def test_what_is_written_to_whole_weights_is_kept(module):
    weight = module.model.get_decoder().layers[0].self_attn.q_proj.weight
    with DividedWeights().whole([weight]), torch.no_grad():
        assert weight.shape == weight.ds_shape
        changed = weight.add_(1).clone()
    with DividedWeights().whole([weight]):
        assert torch.equal(weight, changed)
