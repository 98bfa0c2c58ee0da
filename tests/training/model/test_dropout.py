"""Nothing is random in training, whatever a model calls its drop-out."""

import pytest
import torch
from packed_groups import load_policy, pack_into, random_groups
from tiny_families import build_tiny_family
from torch import nn
from transformers import AutoModelForCausalLM

from rlpost.errors import UserError
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.model.dropout import is_random, switch_off_dropout
from rlpost.training.model.heads import LogprobHead
from rlpost.training.model.loading import verify_packing
from rlpost.training.model.packed_model import ModelInputs

NAMES = {
    "gpt2": {"resid_pdrop": 0.4, "embd_pdrop": 0.4, "attn_pdrop": 0.4},
    "gpt_neox": {"hidden_dropout": 0.4, "attention_dropout": 0.4},
    "phi3": {"resid_pdrop": 0.4, "embd_pdrop": 0.4},
    "phi": {"resid_pdrop": 0.4, "embd_pdrop": 0.4},
    "opt": {"dropout": 0.4, "attention_dropout": 0.4, "layerdrop": 0.5},
    "starcoder2": {"residual_dropout": 0.4, "embedding_dropout": 0.4},
    "seed_oss": {"residual_dropout": 0.4, "attention_dropout": 0.4},
    "mixtral": {"router_jitter_noise": 0.3},
    "llama": {"attention_dropout": 0.4},
}


@pytest.mark.parametrize("family", NAMES)
def test_every_name_of_drop_out_is_switched_off(family, tmp_path):
    path = build_tiny_family(tmp_path / "m", family, **NAMES[family])
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train()
    ids = torch.arange(40).view(1, -1)

    def differs(seed):
        torch.manual_seed(seed)  # is_random leaves the generators as they are
        return is_random(lambda: model(ids).logits)

    assert any(map(differs, range(8)))  # negative control: with some seeds all layers are dropped
    switch_off_dropout(model)
    assert not any(map(differs, range(8)))


@pytest.mark.parametrize("family", ["gpt2", "opt", "seed_oss"])
def test_a_loaded_policy_repeats_itself_and_exports_its_own_settings(family, tmp_path):
    path = build_tiny_family(tmp_path / "m", family, **NAMES[family])
    policy = load_policy(path)
    assert policy.training
    inputs = ModelInputs.of(pack_into(*random_groups()).batches[0][0], device=torch.device("cpu"))
    assert not is_random(lambda: policy(inputs, temperature=1.0)[0])
    shell = ModelDirectory.read(path).shell()  # what an export takes its config from
    assert all(getattr(shell.config, name) == value for name, value in NAMES[family].items())


HEAD = LogprobHead(chunk=16)


class Noise(nn.Module):
    """Randomness that no attribute names."""

    def forward(self, hidden):
        return hidden + (torch.randn_like(hidden) if self.training else 0)


def test_randomness_without_a_name_is_refused(tmp_path):
    path = build_tiny_family(tmp_path / "m", "llama")
    policy = load_policy(path)
    verify_packing(policy, HEAD, field="model.path")
    mlp = policy.model.model.layers[1].mlp
    mlp.act_fn = nn.Sequential(mlp.act_fn, Noise())
    switch_off_dropout(policy)
    with pytest.raises(UserError, match=r"LlamaForCausalLM.*differ in training mode"):
        verify_packing(policy.train(), HEAD, field="model.path")
    assert policy.training


def test_weights_that_are_no_numbers_are_refused_when_they_are_loaded(tmp_path):
    """Beyond the sample that is looked at before a run."""
    path = build_tiny_family(tmp_path / "m", "llama")
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        model.model.embed_tokens.weight[-1, -1] = float("nan")
    model.save_pretrained(path)
    ModelDirectory.read(path)
    with pytest.raises(UserError, match=r"embed_tokens\.weight holds values that are not finite"):
        load_policy(path)
