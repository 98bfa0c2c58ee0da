"""What a pushed adapter must consist of, before an engine sees it."""

import pytest
import torch

from rlpost.errors import WeightPushError
from rlpost.weights.adapter import adaptable, rank_of, refuse_other_adapter, tensor_name
from rlpost.weights.manifest import PushManifest, read_payload, write_payload

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
MODEL = {f"{Q}.weight": (8, 6), f"{V}.weight": (4, 6), "model.norm.weight": (6,)}
CONFIG = {"r": 2, "lora_alpha": 4, "rank_pattern": {"v_proj": 3}, "target_modules": ["q_proj"]}
TENSORS = {
    tensor_name(Q, "A"): torch.ones(2, 6),
    tensor_name(Q, "B"): torch.ones(8, 2),
    tensor_name(V, "A"): torch.ones(3, 6),
    tensor_name(V, "B"): torch.ones(4, 3),
}


def written(tensors=TENSORS, config=CONFIG) -> tuple[PushManifest, torch.Tensor]:
    buffer = torch.zeros(4096, dtype=torch.uint8)
    return write_payload(iter(tensors.items()), buffer, version=5, adapter=config), buffer


def test_an_adapter_travels_with_its_configuration():
    manifest, buffer = written()
    again = PushManifest.from_dict(manifest.to_dict())
    assert (again.kind, again.adapter) == ("adapter", CONFIG)
    assert dict(read_payload(again, buffer)).keys() == TENSORS.keys()
    refuse_other_adapter(again, MODEL)
    whole = write_payload(iter(TENSORS.items()), buffer, version=5)
    assert (whole.kind, whole.adapter) == ("full", None)


def test_names_are_those_of_peft():
    assert tensor_name(Q, "A") == f"base_model.model.{Q}.lora_A.weight"


@pytest.mark.parametrize(
    ("patterns", "rank"),
    [
        ({}, 2),
        ({"q_proj": 5}, 5),
        ({"proj": 5}, 2),  # a whole part of the name, or nothing
        ({r"layers\.0\.self_attn\.q_proj": 7, "q_proj": 5}, 7),  # the first that matches
        ({"q_proj": 5, r"layers\.0\.self_attn\.q_proj": 7}, 5),
    ],
)
def test_patterns_of_ranks_are_read_as_peft_reads_them(patterns, rank):
    from peft.utils.other import get_pattern_key

    assert rank_of(Q, {"r": 2, "rank_pattern": patterns}) == rank
    key = get_pattern_key(patterns.keys(), Q)
    assert patterns.get(key, 2) == rank


@pytest.mark.parametrize(
    ("tensors", "refusal"),
    [
        ({}, "without a tensor"),
        ({f"{Q}.weight": torch.ones(8, 6)}, "no matrix of a LoRA adapter"),
        ({n: t for n, t in TENSORS.items() if n != tensor_name(Q, "B")}, "lora_B.* is missing"),
        (TENSORS | {tensor_name(Q, "A"): torch.ones(1, 6)}, r"\(1, 6\), .* needs \(2, 6\)"),
        (TENSORS | {tensor_name(V, "A"): torch.ones(3, 5)}, r"\(3, 5\), .* needs \(3, 6\)"),
        (TENSORS | {tensor_name(V, "B"): torch.ones(5, 3)}, r"\(5, 3\), .* needs \(4, 3\)"),
    ],
)
def test_what_no_engine_may_get_is_refused(tensors, refusal):
    manifest, _ = written(tensors)
    with pytest.raises(WeightPushError, match=refusal):
        refuse_other_adapter(manifest, MODEL)


def test_adapters_are_for_linear_layers_of_the_blocks():
    others = {
        "model.embed_tokens.weight": (9, 6),
        "lm_head.weight": (9, 6),
        "model.layers.0.input_layernorm.weight": (6,),
        "model.layers.0.self_attn.q_proj.bias": (8,),
        "model.layers.1.mlp.experts.3.up_proj.weight": (9, 6),
    }
    assert adaptable(MODEL | others) == ["q_proj", "v_proj"]


def test_a_layer_that_the_checkpoint_calls_otherwise_is_left_to_the_probe():
    manifest, _ = written()
    refuse_other_adapter(manifest, {})
