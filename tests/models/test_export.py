"""What surrounds exported weights: kept, mended where that is harmless, tried beforehand."""

import json
import tempfile

import pytest
import torch
from tiny_families import build_tiny_family
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlpost.errors import UserError
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.export import generation_config, try_export, write_model
from rlpost.models.tiny import build_tiny_llama

INVALID = {
    "a temperature without sampling": (
        {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 2},
        ["temperature", "top_p"],
    ),
    "a length penalty without beams": (
        {"length_penalty": 2.0, "eos_token_id": 2},
        ["length_penalty"],
    ),
    "a forbidden value": ({"max_new_tokens": -1, "eos_token_id": 2}, ["max_new_tokens"]),
    "an unknown cache": ({"cache_implementation": "none", "eos_token_id": 2}, None),
    "an argument of generate": ({"streamer": "x", "eos_token_id": 2}, None),
    "a text for a number": ({"max_new_tokens": "many", "eos_token_id": 2}, None),
}


@pytest.mark.parametrize("name", INVALID)
def test_generation_settings_that_cannot_be_saved_are_left_out(name, tmp_path, caplog):
    fields, dropped = INVALID[name]
    start = build_tiny_llama(tmp_path / "start")
    (start / "generation_config.json").write_text(json.dumps(fields))
    with pytest.raises(Exception, match=r"."):  # negative control: transformers refuses to save
        GenerationConfig(**fields).save_pretrained(tmp_path)
    settings, left_out = generation_config(start)
    assert settings.eos_token_id == 2
    assert left_out == dropped if dropped else left_out
    model = ModelDirectory.read(start)
    try_export(model)
    assert "generation_config.json cannot be saved unchanged" in caplog.text
    state = AutoModelForCausalLM.from_pretrained(
        start, generation_config=GenerationConfig()
    ).state_dict()
    write_model(model.shell(), state, tmp_path / "out", start=start, tokenizer_path=start)
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 2


def test_valid_generation_settings_stay(tmp_path, caplog):
    start = build_tiny_llama(tmp_path / "start")
    GenerationConfig(do_sample=True, temperature=0.6, top_k=20).save_pretrained(start)
    settings, left_out = generation_config(start)
    assert (settings.temperature, settings.top_k, left_out) == (0.6, 20, [])
    try_export(ModelDirectory.read(start))
    assert not caplog.records


def test_generation_settings_that_are_no_json_are_refused(tmp_path):
    start = build_tiny_llama(tmp_path / "start")
    (start / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json cannot be read as JSON"):
        try_export(ModelDirectory.read(start))


def test_an_export_that_would_fail_is_found_before_training(tmp_path, monkeypatch):
    model = ModelDirectory.read(build_tiny_llama(tmp_path / "start"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    try_export(model)

    def refuse(self, *args, **kwargs):
        raise ValueError("no way")

    monkeypatch.setattr(type(model.tokenizer()), "save_pretrained", refuse)
    with pytest.raises(UserError, match=r"could not be exported: no way \(ValueError\)"):
        try_export(model)
    assert not list((tmp_path / "scratch").iterdir())  # nothing is left behind


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt2", "gemma3_text"])
def test_an_export_is_the_model_again(family, tmp_path):
    """Config (drop-out included), template and weights; the fused experts unfused."""
    start = build_tiny_family(tmp_path / "start", family)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(1.5)
    shell = ModelDirectory.read(start).shell(dtype=torch.float32)
    write_model(shell, model.state_dict(), tmp_path / "out", start=start, tokenizer_path=start)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.tensor([[5, 80, 33]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    before, after = ((p / "config.json").read_text() for p in (start, tmp_path / "out"))
    assert after == before
    out = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert out.chat_template == AutoTokenizer.from_pretrained(start).chat_template
