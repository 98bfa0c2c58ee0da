"""Footprints against tensors that are really there."""

from dataclasses import replace

import pytest
import torch
from packed_groups import load_policy, pack_into, random_groups
from transformers import AutoModelForCausalLM

from rlpost.models.shape import ModelShape, model_shape
from rlpost.training.memory import activation_bytes_per_token, frozen_footprint, trained_footprint
from rlpost.training.model.packed_model import ModelInputs, packed_hidden
from rlpost.training.settings import TrainerConfig


def footprint(shape, *, value_bytes=4, **options):
    cfg = TrainerConfig(**options)
    (found,) = trained_footprint(
        "trainer rank 0", shape, cfg, num_tokens=100, value_bytes=value_bytes, on_gpu=False
    )
    return found


def test_a_shape_is_read_from_the_files(tiny_model):
    shape, model = model_shape(str(tiny_model)), AutoModelForCausalLM.from_pretrained(tiny_model)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.layers == len(model.model.layers)
    assert shape.vocabulary == model.lm_head.out_features
    keys_and_values = 2 * model.model.layers[0].self_attn.k_proj.out_features
    assert 2 * shape.kv_heads * shape.head_dim == keys_and_values


def test_states_are_those_of_the_zero_paper(tiny_model):
    """16 bytes a parameter in mixed precision plus a float32 gradient, shared as the stage says."""
    shape = model_shape(str(tiny_model))
    states = {
        stage: sum(
            size
            for what, size in footprint(
                shape, value_bytes=2, zero_stage=stage, num_ranks=4
            ).kept.items()
            if what != "libraries"
        )
        / shape.parameters
        for stage in range(4)
    }
    assert states == {0: 2 + 4 + 12, 1: 2 + 4 + 12 / 4, 2: 2 + 16 / 4, 3: 18 / 4}


def test_saved_activations_are_counted_like_autograd_does(tiny_model):
    shape = model_shape(str(tiny_model))
    policy = load_policy(tiny_model, logprob_chunk=512)
    ((batch,),) = pack_into(*random_groups(), num_ranks=1, num_micro_batches=1).batches
    inputs = ModelInputs.of(batch, device=torch.device("cpu"))
    weights = {p.data_ptr() for p in policy.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        packed_hidden(policy.model.get_decoder(), inputs)
    counted = activation_bytes_per_token(shape, value_bytes=4, checkpointing=False)
    assert counted * len(batch.token_ids_T) == pytest.approx(sum(saved.values()), rel=0.35)


def test_checkpointing_keeps_the_inputs_of_layers(tiny_model):
    shape = model_shape(str(tiny_model))
    full, light = (
        activation_bytes_per_token(shape, value_bytes=4, checkpointing=c) for c in (False, True)
    )
    assert light == shape.layers * shape.width * 4 + full / shape.layers


@pytest.mark.parametrize(("checkpointing", "seen_gb"), [(False, 51.6), (True, 27.2)])
def test_the_peaks_of_a_1b_model_on_an_h100(checkpointing, seen_gb):
    """Measured by benchmarks/gpu_check.py: bfloat16, stage 2, one rank, 16,384 tokens."""
    llama_1b = ModelShape(
        parameters=1_235_814_400,
        layers=16,
        width=2048,
        feed_forward=8192,
        heads=32,
        kv_heads=8,
        head_dim=64,
        vocabulary=128_256,
    )
    cfg = TrainerConfig(gradient_checkpointing=checkpointing)
    _, gpu = trained_footprint(
        "trainer rank 0", llama_1b, cfg, num_tokens=16_384, value_bytes=2, on_gpu=True
    )
    allocated = gpu.peak_bytes - gpu.kept["CUDA context"]
    assert allocated / 1e9 == pytest.approx(seen_gb, rel=0.1)


def test_on_a_gpu_the_host_holds_what_is_written(tiny_model):
    shape = model_shape(str(tiny_model))
    host, gpu = trained_footprint(
        "trainer rank 0", shape, TrainerConfig(), num_tokens=1, value_bytes=2, on_gpu=True
    )
    assert not host.on_gpu and host.phases == {"copy for a checkpoint": 12 * shape.parameters}
    assert gpu.on_gpu and gpu.kept["optimizer's state"] == 8 * shape.parameters
    frozen_host, frozen = frozen_footprint(
        "reference", shape, num_tokens=1, value_bytes=2, logprob_chunk=1, on_gpu=True
    )
    assert frozen.kept["weights"] == 2 * shape.parameters and "weights" not in frozen_host.kept


def test_stage_3_makes_two_layers_whole_at_a_time(tiny_model):
    shape = replace(model_shape(str(tiny_model)), layers=4)
    embedded = shape.vocabulary * shape.width
    shape = replace(shape, parameters=embedded + 4 * 1_000_000, tied=True)

    def at_work(shape, **options):
        return footprint(shape, value_bytes=2, **options).phases["activations and logits"]

    divided, whole = {"zero_stage": 3, "num_ranks": 2}, {"zero_stage": 2, "num_ranks": 2}
    assert at_work(shape, **divided) - at_work(shape, **whole) == 2 * 2 * 1_000_000
    assert at_work(shape, zero_stage=3) == at_work(shape, zero_stage=2)  # nobody to divide with
    large = replace(shape, parameters=embedded + 4 * 10**9)
    assert at_work(large, **divided) - at_work(large, **whole) == 2 * 10**9


def test_a_frozen_model_is_divided_among_its_ranks(tiny_model):
    shape = replace(model_shape(str(tiny_model)), layers=4, tied=True)
    embedded = shape.vocabulary * shape.width
    shape = replace(shape, parameters=embedded + 4 * 1_000_000)
    options = {"num_tokens": 1, "value_bytes": 2, "logprob_chunk": 1, "on_gpu": True}
    (_, whole), (_, part) = (
        frozen_footprint("reference", shape, **options, sharing=number) for number in (1, 2)
    )
    assert whole.kept["weights"] == 2 * part.kept["weights"] == 2 * shape.parameters
    key = "one layer and logits"
    assert part.phases[key] - whole.phases[key] == 2 * 2 * 1_000_000  # two layers

    def beside(is_divided):
        cfg, frozen = TrainerConfig(num_ranks=2), [(shape, is_divided)]
        (needs,) = trained_footprint(
            "rank", shape, cfg, num_tokens=1, value_bytes=2, on_gpu=False, frozen=frozen
        )
        return needs.kept["frozen teacher"], needs.phases["activations and logits"]

    (kept, at_work), (kept_whole, at_work_whole) = beside(True), beside(False)
    assert kept_whole == 2 * shape.parameters
    assert kept == shape.parameters + 2 * embedded  # half, and all of the output head
    assert at_work - at_work_whole == 2 * 2 * 1_000_000


def test_what_is_offloaded_is_counted_on_the_host(tiny_model):
    shape, options = model_shape(str(tiny_model)), {"zero_stage": 3, "num_ranks": 2}

    def needs(**more):
        cfg = TrainerConfig(**options, **more)
        return trained_footprint("rank", shape, cfg, num_tokens=1, value_bytes=2, on_gpu=True)

    (host, gpu), (full_host, full_gpu) = needs(offload_optimizer=True), needs()
    share = shape.parameters / 2
    assert gpu.kept.keys() == {"CUDA context", "weights"} and gpu.kept["weights"] == 2 * share
    states = {"gradients": 8, "optimizer's state": 8, "float32 masters": 4}
    assert {name: host.kept[name] / share for name in states} == states
    assert "temporaries of the update" in host.phases and full_gpu.phases.keys() - gpu.phases.keys()
    assert full_gpu.kept.keys() == gpu.kept.keys() | states.keys()
    assert not states.keys() & full_host.kept.keys()
