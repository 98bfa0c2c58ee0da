"""Models by name: found, converted once, refused with a way out."""

import sys

import pytest
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlpost.errors import UserError
from rlpost.models import embedded
from rlpost.models.locate import context_length, locate_model, parameter_count
from rlpost.models.tiny import build_tiny_llama


def test_embedded_model_answers():
    path = locate_model(embedded.NAME)
    assert path == locate_model(embedded.NAME)  # converted once
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 2+3?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**ids, max_new_tokens=12, do_sample=False)
    text = tokenizer.decode(output[0, ids["input_ids"].shape[1] :])
    assert text == "2 + 3 = 5<|im_end|>"


def test_tiny_model_is_the_same_every_time(tmp_path):
    a, b = (build_tiny_llama(tmp_path / name) for name in "ab")
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    c = build_tiny_llama(tmp_path / "c", seed=1)
    assert (a / "model.safetensors").read_bytes() != (c / "model.safetensors").read_bytes()


def test_byte_tokenizer_loses_nothing(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = "7 * 8 = 56\n\té漢"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text


def test_sizes_are_read_without_loading(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert parameter_count(str(tiny_model)) == sum(p.numel() for p in model.parameters())
    assert context_length(str(tiny_model)) == 512


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c"])
def test_a_path_that_does_not_exist(name):
    with pytest.raises(UserError, match=r"model\.path: .* does not exist"):
        locate_model(name)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_path_is_not_the_working_directory(name, tiny_model, monkeypatch):
    monkeypatch.chdir(tiny_model)  # which is a model
    with pytest.raises(UserError, match=rf"^reference\.path names no model, got '{name}'; give "):
        locate_model(name, field="reference.path")
    assert locate_model(".") == str(tiny_model)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "m.gguf").write_text("")
    with pytest.raises(UserError, match=r"m\.gguf is a file; give the directory"):
        locate_model(str(tmp_path / "m.gguf"))


def test_a_conversion_says_one_line_of_its_own(tmp_path, monkeypatch, capsys):
    def convert(target):
        sys.stdout.write("a greeting\n")
        for _ in tqdm(range(2)):
            (target / "config.json").touch()

    monkeypatch.setattr(embedded, "_convert", convert)
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path))
    made = embedded.materialize()
    shown = capsys.readouterr()
    assert (made / "config.json").exists() and shown.out == ""
    assert shown.err == f"converting the model {embedded.NAME}, only this once (about 10 s)\n"
    embedded.materialize()
    assert capsys.readouterr().err == ""
