"""A model that is built without weights differs from a loaded one in nothing else."""

import pytest
import torch
from tiny_families import build_tiny_family
from transformers import AutoModelForCausalLM

from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.model.attention import register_packed_attention
from rlpost.training.model.build import build
from rlpost.training.model.heads import LogprobHead
from rlpost.training.model.hollow import find_weights

# A tied head; buffers that are stored; experts that are fused; a parameter that is renamed.
FAMILIES = {"qwen3": True, "gpt2": True, "gemma2": True, "qwen3_moe": False, "gpt_neox": False}


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
def test_only_files_of_the_modules_own_form_are_read_in_parts(family, tmp_path):
    register_packed_attention()
    path = build_tiny_family(tmp_path / family, family)
    head = LogprobHead(chunk=8)
    module = head.load(str(path), dtype=torch.float32, field="model.path", hollow=True)
    directory = ModelDirectory.read(path)
    found = find_weights(module, directory, head.shell(path, dtype=torch.float32))
    assert (found is not None) is FAMILIES[family]
    if found is not None:
        assert found.stored.keys() == dict(module.named_parameters()).keys()
        loaded = head.load(str(path), dtype=torch.float32, field="model.path")
        for name, parameter in loaded.named_parameters():
            assert torch.equal(found.stored[name].read(), parameter), name
