import pytest
import torch
from transformers import AutoModelForCausalLM

from rlpost.errors import UserError
from rlpost.merging.prune_layers import kept_layers, prune_layers
from rlpost.models.tiny import build_tiny_llama


def test_layers_that_stay_are_spread_evenly_with_both_ends():
    assert kept_layers(6, 3) == [0, 3, 5]
    assert kept_layers(30, 15)[:3] == [0, 2, 4] and kept_layers(30, 15)[-1] == 29
    for total in range(2, 40):
        for layers in range(1, total):
            kept = kept_layers(total, layers)
            assert len(set(kept)) == layers and kept == sorted(kept) and 0 <= kept[-1] < total


def test_the_copy_computes_what_the_model_without_its_other_layers_does(tmp_path):
    whole = build_tiny_llama(tmp_path / "whole")
    prune_layers(whole, tmp_path / "half", layers=1)
    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    copy = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)
    ids = torch.tensor([[1, 5, 9, 2]])
    before = model(ids).logits
    model.model.layers = model.model.layers[:1]
    assert torch.equal(model(ids).logits, copy(ids).logits)
    assert not torch.equal(before, copy(ids).logits)


def test_as_many_layers_as_the_model_has_are_refused(tmp_path):
    whole = build_tiny_llama(tmp_path / "whole")
    layers = AutoModelForCausalLM.from_pretrained(whole).config.num_hidden_layers
    with pytest.raises(UserError, match="below the model's number of layers"):
        prune_layers(whole, tmp_path / "same", layers=layers)
    assert not (tmp_path / "same").exists()
