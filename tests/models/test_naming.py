"""The tensors that are pushed are those that a checkpoint of the same model holds."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_families import FAMILIES, build_tiny_family
from transformers import AutoModelForCausalLM

from rlpost.errors import UserError
from rlpost.models import naming
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.naming import pieces_of, state_shapes

RENAMED = {"gpt_neox", "qwen3_moe", "mixtral", "qwen2_moe", "qwen3_next", "deepseek_v2"}
RENAMED |= {"granitemoe", "glm4_moe", "olmoe"}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return lambda name: build_tiny_family(root / name, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_pushed_under_the_names_of_its_checkpoint(families, family):
    """Values too, from a live model, one piece at a time."""
    path = families(family)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    pushed: dict[str, torch.Tensor] = {}
    for piece in pieces_of(model):
        for name, tensor in piece.of(model, {n: state[n].detach() for n in piece.sources}):
            assert name not in pushed
            pushed[name] = tensor
    stored = load_file(path / "model.safetensors")
    assert {n: t.shape for n, t in pushed.items()} == {n: t.shape for n, t in stored.items()}
    assert all(torch.equal(pushed[name], stored[name]) for name in stored)
    # Negative control: these are not the model's own names.
    assert ((state.keys() & stored.keys()) != stored.keys()) == (family in RENAMED)


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v2", "gpt2"])
def test_headers_alone_tell_the_same(families, family):
    path = families(family)
    stored = load_file(path / "model.safetensors")
    assert ModelDirectory.read(path).checkpoint_shapes() == {
        name: tuple(tensor.shape) for name, tensor in stored.items()
    }


def test_a_tied_head_is_not_listed_even_if_the_file_has_it(families):
    model = AutoModelForCausalLM.from_pretrained(families("qwen3"))
    assert "lm_head.weight" in model.state_dict()
    assert "lm_head.weight" not in {name for name, _, _ in state_shapes(model)}


def test_no_piece_holds_more_than_one_layer(families):
    """Under ZeRO-3 a piece is what one rank holds whole."""
    model = AutoModelForCausalLM.from_pretrained(families("mixtral"))
    for piece in pieces_of(model):
        assert len({naming._LAYER.match(n) and n.split(".")[2] for n in piece.sources}) == 1


def test_what_can_only_be_converted_together_is_one_piece_a_layer(families, monkeypatch):
    """A made-up form that needs query and key of a layer at once."""
    model = AutoModelForCausalLM.from_pretrained(families("qwen3"), dtype=torch.float32)

    def fuse(model, tensors):
        tensors = dict(tensors)
        for name in list(tensors):
            key = name.replace("q_proj", "k_proj")
            if "q_proj" in name and key in tensors:
                fused = torch.cat([tensors.pop(name), tensors.pop(key)])
                tensors[name.replace("q_proj", "qk_proj")] = fused
        return tensors

    monkeypatch.setattr(naming, "_converted", fuse)
    pieces = pieces_of(model)
    names = {name for piece in pieces for name, _, _ in piece.targets}
    assert "model.layers.1.self_attn.qk_proj.weight" in names
    assert not any("k_proj" in n and "qk_proj" not in n for n in names)
    assert max(len(piece.sources) for piece in pieces) > 1

    def fuse_layers(model, tensors):
        embeddings = [n for n in tensors if n.endswith("q_proj.weight")]
        rest = {n: t for n, t in tensors.items() if n not in embeddings}
        if len(embeddings) < 2:
            return {**rest, **{n: tensors[n] for n in embeddings}}
        return {**rest, "all": torch.cat([tensors[n] for n in embeddings])}

    monkeypatch.setattr(naming, "_converted", fuse_layers)
    with pytest.raises(UserError, match=r"Qwen3ForCausalLM.*spans layers"):
        pieces_of(model)
