"""What vLLM can run, read from its source instead of imported."""

from functools import partial

import pytest

from rlpost.errors import UserError
from rlpost.rollout.vllm import architectures as module
from rlpost.rollout.vllm.architectures import (
    require_vllm_adapters,
    require_vllm_architecture,
    text_generation_models,
)


def test_the_registry_is_found_and_read():
    names = text_generation_models()
    assert {"LlamaForCausalLM", "Qwen3MoeForCausalLM", "GPT2LMHeadModel"} <= names
    assert len(names) > 100


@pytest.mark.parametrize(
    "name",
    ["LlamaForCausalLM", "GPTNeoXForCausalLM"],  # vLLM's own; through transformers
)
def test_what_vllm_runs_passes(name):
    require_vllm_architecture(name, field="model.path")


@pytest.mark.parametrize("name", ["MptForCausalLM", "NobodyForCausalLM"])
def test_what_it_cannot_run_is_refused(name):
    with pytest.raises(UserError, match=rf"^model\.path: the installed vLLM has no {name}"):
        require_vllm_architecture(name, field="model.path")


def test_without_a_registry_the_engine_decides(monkeypatch):
    monkeypatch.setattr(module, "text_generation_models", frozenset)
    require_vllm_architecture("NobodyForCausalLM", field="model.path")


def test_architectures_that_hold_no_adapter_are_refused():
    """By their class, by one that it is derived from in another file, or through transformers."""
    require = partial(
        require_vllm_adapters,
        has_experts=False,
        on_gpu=False,
        field="adapter",
        way_out="leave it out",
    )
    for name in ("Qwen3MoeForCausalLM", "MistralForCausalLM", "GPTNeoXForCausalLM"):
        require(name)
    with pytest.raises(UserError, match=r"^adapter: .* no adapter beside GPT2LMHeadModel; leave"):
        require("GPT2LMHeadModel")
