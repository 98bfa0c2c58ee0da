"""``rlpost merge``: the model directory computes what base and adapter compute in plain peft."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from peft_adapters import CONFIGS, adapted, base_model, logits, save
from safetensors.torch import load_file, save_file
from tiny_families import build_tiny_family
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlpost.cli.main import main
from rlpost.errors import UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.merge.config import MergeConfig, MergedDType, MergeSettings
from rlpost.stages.merge.drive import merge
from rlpost.stages.registry import STAGES


def merged(place, adapter, base=None, *, name="merged", **settings):
    """Merge as the command does, after it has read its options; returns the result's message."""
    cfg = MergeConfig(adapter=str(adapter), merge=MergeSettings(**settings))
    cfg.run.dir, cfg.run.name = str(place / "runs"), name
    cfg.model.path = None if base is None else str(base)
    STAGES["merge"].part("check")(cfg)
    return merge(STAGES["merge"], cfg, {"run": {"name": name}}).message


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_kind_that_changes_weights_is_merged(kind, tiny_model, tmp_path):
    model = adapted(tiny_model, kind)
    wanted = logits(model)
    adapter = save(model, tmp_path / "adapter")
    said = merged(tmp_path, adapter)  # into the base that the adapter names
    export = tmp_path / "runs" / "merged" / "export"
    torch.testing.assert_close(logits(base_model(export)), wanted, atol=1e-4, rtol=1e-4)
    assert (logits(base_model(tiny_model)) - wanted).abs().max() > 0.1
    drift = float(said.split("differ by ")[1].split()[0])
    assert drift < 1e-4
    assert str(AutoTokenizer.from_pretrained(export)("a")) == str(
        AutoTokenizer.from_pretrained(tiny_model)("a")
    )
    assert "merged in: log-probs" in " ".join((export / "README.md").read_text().split())
    untouched = load_file(export / "model.safetensors")["model.norm.weight"]
    assert torch.equal(untouched, load_file(tiny_model / "model.safetensors")["model.norm.weight"])
    assert sorted(p.name for p in export.parent.iterdir()) == [
        ".lock", "config.yaml", "export", "run.log"
    ]  # fmt: skip


def test_rounding_is_measured_and_a_run_or_its_name_stands_for_its_adapter(tiny_model, tmp_path):
    run = tmp_path / "runs" / "tuned"
    save(adapted(tiny_model, "lora"), run / "export")
    said = merged(tmp_path, run, tiny_model, dtype=MergedDType.bfloat16)
    drift = float(said.split("differ by ")[1].split()[0])
    assert 1e-4 < drift < 0.5
    export = tmp_path / "runs" / "merged" / "export"
    assert AutoModelForCausalLM.from_pretrained(export, dtype="auto").dtype is torch.bfloat16
    merged(tmp_path, "tuned", name="second", drift_prompts=0)
    with pytest.raises(UserError, match=r"run\.name: .* holds a run or a merged model already"):
        merged(tmp_path, run, name="second")


def test_modules_that_are_saved_whole_replace_those_of_the_base(tiny_untied_model, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(base_model(tiny_untied_model), config)
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param += 0.1
    wanted = logits(model)
    merged(tmp_path, save(model, tmp_path / "adapter"))
    export = tmp_path / "runs" / "merged" / "export"
    torch.testing.assert_close(logits(base_model(export)), wanted, atol=1e-4, rtol=1e-4)


def test_an_architecture_with_transposed_layers(tmp_path):
    base = build_tiny_family(tmp_path / "gpt2", "gpt2")
    config = LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    model = get_peft_model(base_model(base), config)
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param += 0.1
    wanted = logits(model)
    merged(tmp_path, save(model, tmp_path / "adapter"))
    export = tmp_path / "runs" / "merged" / "export"
    torch.testing.assert_close(logits(base_model(export)), wanted, atol=1e-4, rtol=1e-4)


@pytest.fixture
def lora(tiny_model, tmp_path):
    return save(adapted(tiny_model, "lora"), tmp_path / "adapter")


def edited(directory, **fields):
    file = directory / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return directory


def with_tensors(directory, change):
    file = directory / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    return directory


def nan(tensors):
    next(iter(tensors.values()))[0] = float("nan")
    return tensors


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: edited(d, peft_type="IA3"), "type IA3 are not known"),
        (lambda d: edited(d, init_lora_weights="pissa"), "path_initial_model_for_weight"),
        (lambda d: edited(d, bias="all"), "the setting bias"),
        (lambda d: edited(d, trainable_token_indices=[1]), "the setting trainable_token"),
        (lambda d: edited(d, use_dora=True), "the parts lora_A, lora_B"),
        (lambda d: edited(d, base_model_name_or_path=None), "names no base"),
        (lambda d: with_tensors(d, nan), "not finite"),
        (lambda d: with_tensors(d, lambda t: dict(list(t.items())[1:])), "it lacks lora_A"),
        (lambda d: (d / "adapter_config.json").unlink() or d, "neither an adapter's directory"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused_before_anything_is_written(damage, says, lora, tmp_path):
    with pytest.raises(UserError, match=says):
        merged(tmp_path, damage(lora))
    assert not (tmp_path / "runs").exists()


def test_an_adapter_of_another_base_is_refused(lora, tiny_model, tmp_path):
    wider = build_tiny_llama(tmp_path / "wider", hidden=128)
    with pytest.raises(UserError, match="another base"):
        merged(tmp_path, edited(lora, base_model_name_or_path=None), wider)
    other = build_tiny_llama(tmp_path / "other", seed=1)  # of the same shapes
    edited(lora, base_model_name_or_path=str(tiny_model))
    with pytest.raises(UserError, match="has other weights"):
        merged(tmp_path, lora, other)
    assert not (tmp_path / "runs").exists()


def test_prompt_tuning_and_tied_heads_are_refused(tiny_model, tmp_path):
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    place = save(get_peft_model(base_model(tiny_model), prompt), tmp_path / "prompt")
    with pytest.raises(UserError, match="cannot be merged"):
        merged(tmp_path, place)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    place = save(get_peft_model(base_model(tiny_model), config), tmp_path / "head")
    with pytest.raises(UserError, match=r"both the embedding and the output head"):
        merged(tmp_path, place)


def test_the_command_exits_with_two_and_leaves_nothing(lora, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["merge"]) == 2
    assert main(["merge", f"adapter={tmp_path / 'nothing'}"]) == 2
    assert main(["merge", f"adapter={lora}", "trainer.lr=1"]) == 2
    assert not (tmp_path / "runs").exists()
    shutil.rmtree(lora / "nothing", ignore_errors=True)
    assert main(["merge", f"adapter={lora}", "run.name=it", "merge.drift_prompts=1"]) == 0
    assert "differ by" in capsys.readouterr().out
