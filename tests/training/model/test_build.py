"""A model that is built without weights differs from a loaded one in nothing else."""

import dataclasses

import pytest
import torch
from tiny_families import build_tiny_family
from transformers import AutoModelForCausalLM

from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.model.attention import register_packed_attention
from rlpost.training.model.build import build
from rlpost.training.model.heads import LogprobHead
from rlpost.training.model.hollow import find_weights

# A tied head; buffers that are stored; experts that are fused; a parameter that is renamed. Of the
# last two some weights have another form in the files.
FAMILIES = {"qwen3": False, "gpt2": False, "gemma2": False, "qwen3_moe": True, "gpt_neox": True}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_but_the_weights_is_there(family, tmp_path):
    register_packed_attention()
    path = build_tiny_family(tmp_path / family, family)
    options = {"path": str(path), "dtype": torch.bfloat16}
    loaded = build(AutoModelForCausalLM, hollow=False, **options)
    hollow = build(AutoModelForCausalLM, hollow=True, **options)
    theirs, ours = (dict(each.named_parameters()) for each in (loaded, hollow))
    assert list(theirs) == list(ours)  # a tied head is one parameter in both
    for name, parameter in ours.items():
        assert parameter.device.type == "meta"
        assert (parameter.shape, parameter.dtype) == (theirs[name].shape, theirs[name].dtype)
    theirs, ours = (dict(each.named_buffers()) for each in (loaded, hollow))
    assert list(theirs) == list(ours)
    for name, buffer in ours.items():
        assert torch.equal(buffer, theirs[name]) and buffer.dtype == theirs[name].dtype
    # Negative control: outside, parameters have memory again.
    assert torch.nn.Linear(1, 1).weight.device.type == "cpu"


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_read_in_the_modules_form(family, tmp_path):
    register_packed_attention()
    path = build_tiny_family(tmp_path / family, family)
    head = LogprobHead(chunk=8)
    module = head.load(str(path), dtype=torch.float32, field="model.path", hollow=True)
    directory = ModelDirectory.read(path)
    found = find_weights(module, directory, head.shell(path, dtype=torch.float32))
    assert bool(found.changed) is FAMILIES[family]
    loaded = dict(head.load(str(path), dtype=torch.float32, field="model.path").named_parameters())
    assert not found.stored.keys() & found.changed.keys()
    assert found.stored.keys() | found.changed.keys() == loaded.keys()
    for name, stored in found.stored.items():
        assert torch.equal(stored.read(), loaded[name]), name
    for name, weights in found.changed.items():
        assert torch.equal(weights.read(dtype=torch.float32)[name], loaded[name]), name


def test_files_with_names_of_another_model_are_not_read_in_parts(tmp_path):
    path = build_tiny_family(tmp_path / "qwen3", "qwen3")
    head = LogprobHead(chunk=8)
    module = head.load(str(path), dtype=torch.float32, field="model.path", hollow=True)
    directory = ModelDirectory.read(path)
    without_prefix = {n.removeprefix("model."): t for n, t in directory.tensors.items()}
    directory = dataclasses.replace(directory, tensors=without_prefix)
    assert find_weights(module, directory, head.shell(path, dtype=torch.float32)) is None
