"""A base in 4 bits: gradients are those of LoRA on what the bits stand for, evaluated or not."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from packed_groups import load_plain, pack_into, random_groups
from peft_adapters import base_of, planned
from transformers import AutoTokenizer

from rlpost.training.model.packed_model import ModelInputs

CPU = torch.device("cpu")


def loaded(path, kind):
    """The model that is trained, with a second matrix that is not zero."""
    module = planned(path, kind, rank=4).load(dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    return module


def inputs():
    (batch,) = pack_into(*random_groups(), num_micro_batches=1).batches[0]
    return ModelInputs.of(batch, device=CPU)


def gradients(module):
    module.zero_grad()
    module(inputs())[0].sum().backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.requires_grad}


@torch.no_grad()
def evaluate(module):
    module.eval()
    module(inputs())
    module.train()


def apart(found, wanted):
    distance = sum((found[n] - wanted[n]).square().sum() for n in wanted)
    return (distance / sum(g.square().sum() for g in wanted.values())).sqrt().item()


@pytest.fixture(scope="module")
def dense(tiny_model, tmp_path_factory):
    """Gradients of LoRA on the base that the 4 bits stand for."""
    place = tmp_path_factory.mktemp("dense")
    base_of(tiny_model, "qlora").save_pretrained(place)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(place)
    return gradients(loaded(place, "lora"))


def test_gradients_are_those_of_the_dequantized_base_before_and_after_evaluation(tiny_model, dense):
    module = loaded(tiny_model, "qlora")
    layers = [each for each in module.modules() if isinstance(each, Linear4bit)]
    assert len(layers) == 14  # all linear layers, and not the head
    assert apart(gradients(module), dense) < 1e-3
    assert not any(each.support_avx512bf16_for_cpu for each in layers)
    evaluate(module)
    assert not any(each.support_avx512bf16_for_cpu for each in layers)
    assert apart(gradients(module), dense) < 1e-3
    assert apart(gradients(loaded(tiny_model, "lora")), dense) > 1e-2  # 4 bits do change the base


def test_repacking_in_evaluation_would_make_gradients_wrong(tiny_model, dense):
    if not Linear4bit(64, 64).support_avx512bf16_for_cpu:
        pytest.skip("this processor has no AVX512-BF16, so bitsandbytes repacks nothing")
    module = loaded(tiny_model, "qlora")
    for each in module.modules():
        if isinstance(each, Linear4bit):
            each.support_avx512bf16_for_cpu = True
    evaluate(module)
    assert apart(gradients(module), dense) > 0.1


def test_the_plain_base_is_left_alone_by_the_simulation(tiny_model):
    before = load_plain(tiny_model).model.embed_tokens.weight
    assert torch.equal(base_of(tiny_model, "qlora").model.embed_tokens.weight, before)
