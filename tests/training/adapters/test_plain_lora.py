"""Converted adapters compute in plain peft what the original ones compute there."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft_adapters import CONFIGS, LINEAR, adapted, base_model, logits, save, saved
from safetensors.torch import save_file

from rlpost.training.adapters.merged_weight import merged_weight
from rlpost.training.adapters.plain_lora import (
    converts,
    difference,
    is_plain,
    served_rank,
    to_lora,
)

EXACT = sorted(CONFIGS.keys() - {"dora"})


def inputs_of(model):
    return {name: m.in_features for name, m in model.named_modules() if hasattr(m, "in_features")}


def in_peft(base, adapter, directory):
    """Logits of plain peft with an adapter that is written as files."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(dict(adapter.config)))
    save_file(dict(adapter.tensors), directory / "adapter_model.safetensors")
    return logits(PeftModel.from_pretrained(base_model(base), directory))


def furthest(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("kind", EXACT)
def test_a_converted_adapter_computes_the_same_in_plain_peft(kind, tiny_model, tmp_path):
    model = adapted(tiny_model, kind)
    wanted = logits(model)
    original = saved(save(model, tmp_path / "own"))
    plain = to_lora(original, inputs=inputs_of(base_model(tiny_model)))
    assert is_plain(plain.config)
    assert (plain is original) is (kind in ("lora", "rslora"))
    ranks = {t.shape[0] for name, t in plain.tensors.items() if "lora_A" in name}
    assert ranks == {plain.config["r"]} == {served_rank(original.config)}
    assert furthest(in_peft(tiny_model, plain, tmp_path / "plain"), wanted) < 1e-5
    assert furthest(logits(base_model(tiny_model)), wanted) > 0.1  # the adapter does something


def test_adalora_divides_by_its_initial_rank_and_may_leave_modules_without_a_rank(
    tiny_model, tmp_path
):
    model = adapted(tiny_model, "adalora")
    allocated = {  # what peft's allocator leaves behind: names of E with a mask of their ranks
        f"{name}.lora_E": [i < (number % 7) for i in range(6)]
        for number, name in enumerate(
            n for n, m in base_model(tiny_model).named_modules() if n.split(".")[-1] in LINEAR
        )
    }
    with torch.no_grad():
        for name, mask in allocated.items():
            module = model.base_model.model.get_submodule(name.removesuffix(".lora_E"))
            module.lora_E["default"][~torch.tensor(mask)] = 0.0
    wanted = logits(model)
    model.peft_config["default"].rank_pattern = allocated
    original = saved(save(model, tmp_path / "own"))
    ranks = {len(parts["lora_E"]) for parts in original.modules.values()}
    assert ranks == set(range(7))
    plain = to_lora(original)
    assert furthest(in_peft(tiny_model, plain, tmp_path / "plain"), wanted) < 1e-5
    # Negative control: the kept rank as the divisor, which is what one would guess.
    guessed = {
        name: tensor * 6 / max(1, kept_rank(original, name)) if "lora_B" in name else tensor
        for name, tensor in plain.tensors.items()
    }
    wrong = in_peft(tiny_model, replace(plain, tensors=guessed), tmp_path / "wrong")
    assert furthest(wrong, wanted) > 0.05


def kept_rank(adapter, tensor_name):
    module = next(m for m in adapter.modules if f".{m}." in tensor_name)
    return len(adapter.modules[module]["lora_E"])


def test_pissa_is_twice_the_rank_on_the_original_base_and_wrong_as_it_is(tiny_model, tmp_path):
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=LINEAR, init_lora_weights="pissa", use_rslora=True
    )
    model = get_peft_model(base_model(tiny_model), config)
    base = logits(base_model(tiny_model))
    assert furthest(logits(model), base) < 1e-4  # PiSSA starts at the base's function
    start = saved(save(model, tmp_path / "start"))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for param in model.parameters():
            if param.requires_grad:
                param += 0.02 * torch.randn_like(param)
    wanted = logits(model)
    trained = saved(save(model, tmp_path / "trained"))
    plain = difference(trained, start)
    assert plain.config["r"] == 8
    assert furthest(in_peft(tiny_model, plain, tmp_path / "plain"), wanted) < 1e-4
    raw = replace(trained, config={**trained.config, "init_lora_weights": True})
    assert furthest(in_peft(tiny_model, raw, tmp_path / "raw"), wanted) > 1.0


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_merged_weight_is_that_of_peft(kind, tiny_model, tmp_path):
    model = adapted(tiny_model, kind)
    adapter = saved(save(model, tmp_path))
    base = base_model(tiny_model)
    merged = model.merge_and_unload()
    for module in adapter.modules:
        before = base.get_submodule(module).weight.detach()
        kept = before.clone()
        found = merged_weight(adapter, module, before)
        assert torch.equal(before, kept)
        torch.testing.assert_close(found, merged.get_submodule(module).weight.data)
        assert furthest(found, before) > 1e-3


def test_dora_cannot_become_lora_and_shapes_come_without_values(tiny_model, tmp_path):
    dora = saved(save(adapted(tiny_model, "dora"), tmp_path / "dora"))
    assert not converts(dora.config)
    with pytest.raises(AssertionError, match="cannot be converted"):
        to_lora(dora)
    saves = saved(save(adapted(tiny_model, "lora"), tmp_path / "lora"))
    assert not converts({**saves.config, "modules_to_save": ["lm_head"]})
    vera = saved(save(adapted(tiny_model, "vera"), tmp_path / "vera"))
    inputs = inputs_of(base_model(tiny_model))
    empty = replace(vera, tensors={k: v.to("meta") for k, v in vera.tensors.items()})
    shapes = {k: v.shape for k, v in to_lora(empty, inputs=inputs).tensors.items()}
    assert shapes == {k: v.shape for k, v in to_lora(vera, inputs=inputs).tensors.items()}
