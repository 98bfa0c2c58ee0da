"""What a version must set, and how a reload ends; what it does to kernels is in tests/system/."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from vllm.model_executor.model_loader import reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from rlpost.weights.vllm_reload import OpenReload, sent_names


def test_a_payload_sets_what_is_the_models_and_no_scale_of_the_engine():
    names = ["layers.0.mlp.up_proj.base_layer.weight", "layers.0.attn.k_scale", "norm.weight_scale"]
    assert sent_names(names) == {"layers.0.mlp.up_proj.weight", "norm.weight_scale"}


def test_a_reload_that_could_not_be_finished_can_be_given_up(monkeypatch):
    """Otherwise its layers stay without weights, and the next reload takes them as they are."""
    model = nn.Sequential(nn.Linear(3, 2))
    reload.record_metadata_for_reloading(model)
    before = model[0].weight.detach().clone()
    config = SimpleNamespace(hf_config=SimpleNamespace(tie_word_embeddings=False), dtype=None)
    opened = OpenReload(model, config, device=torch.device("cpu"))
    assert model[0].weight.is_meta

    def fails(*_):
        raise RuntimeError("a layer could not be processed")

    with monkeypatch.context() as patched:
        patched.setattr(reload, "finalize_layerwise_reload", fails)
        with pytest.raises(RuntimeError, match="could not be processed"):
            opened.finish()
    opened.give_up()
    assert torch.equal(model[0].weight, before)
    assert not get_layerwise_info(model[0]).can_load()
    opened.give_up()  # harmless
