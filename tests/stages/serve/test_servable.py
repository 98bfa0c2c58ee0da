"""Which adapters can be served: kinds, bases, damaged and hostile directories."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from peft_adapters import CONFIGS, adapted, base_model, logits, save
from safetensors.torch import load_file, save_file
from tiny_families import build_tiny_family

from rlpost.cli.main import main
from rlpost.errors import UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.serve.base import ServedBase
from rlpost.stages.serve.servable import read_servable
from rlpost.training.adapters.export import write_saved

SERVED = [kind for kind in CONFIGS if kind != "dora"]


@pytest.fixture(scope="module")
def base(tiny_model):
    return ServedBase.read(str(tiny_model), name="tiny", template=None)


@pytest.fixture(scope="module")
def made(tiny_model, tmp_path_factory):
    """An adapter of each kind."""
    place = tmp_path_factory.mktemp("adapters")
    return {kind: save(adapted(tiny_model, kind), place / kind) for kind in CONFIGS}


@pytest.fixture
def lora(made, tmp_path):
    return shutil.copytree(made["lora"], tmp_path / "lora")


def read(place, base, *, rank=16):
    return read_servable(place, base=base, rank=rank, field="adapters.a")


@pytest.mark.parametrize("kind", SERVED)
def test_what_the_engine_gets_computes_the_same_in_plain_peft(kind, base, made, tmp_path):
    from rlpost.merging.plain_peft import load_plain, with_adapter

    servable = read(made[kind], base)
    write_saved(
        tmp_path / "plain",
        servable.plain,
        base="",
        four_bit=False,
        tokenizer_path=base.directory.path,
    )
    wanted = logits(with_adapter(load_plain(base.directory.path), made[kind]))
    found = logits(with_adapter(load_plain(base.directory.path), tmp_path / "plain"))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - logits(base_model(base.directory.path))).abs().max() > 0.1
    assert servable.plain.config["peft_type"] == "LORA"
    assert ("converted" in servable.about["kind"]) == (kind not in ("lora", "rslora"))


def edited(directory, **fields):
    file = directory / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def with_tensors(directory, change):
    file = directory / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def nan(tensors):
    next(iter(tensors.values()))[0] = float("nan")
    return tensors


def truncated(directory):
    file = directory / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled(directory):
    tensors = load_file(directory / "adapter_model.safetensors")
    (directory / "adapter_model.safetensors").unlink()
    torch.save(tensors, directory / "adapter_model.bin")


def other_layer(directory):
    edited(directory, target_modules=["q_proj", "lm_head"])
    with_tensors(
        directory,
        lambda old: {
            **{name: tensor for name, tensor in old.items() if "q_proj" in name},
            "base_model.model.lm_head.lora_A.weight": torch.ones(4, 64),
            "base_model.model.lm_head.lora_B.weight": torch.ones(320, 4),
        },
    )


def with_tokenizer(directory, change):
    from rlpost.models.tiny import byte_tokenizer

    tokenizer = byte_tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(directory)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: edited(d, use_dora=True), "DoRA.*rlpost merge adapter="),
        (lambda d: edited(d, peft_type="IA3"), "this is IA3"),
        (lambda d: edited(d, bias="all"), "with bias='all'"),
        (lambda d: edited(d, task_type="SEQ_CLS"), "task_type='SEQ_CLS'"),
        (lambda d: edited(d, modules_to_save=["lm_head"]), "whole modules.*rlpost merge"),
        (lambda d: edited(d, init_lora_weights="pissa"), "path_initial_model_for_weight"),
        (lambda d: edited(d, r=10**9), r"whole number in \[1, 8192\]"),
        (lambda d: edited(d, r="4"), "whole number"),
        (lambda d: edited(d, target_modules=["(a+)+$"]), "may take for ever"),
        (lambda d: edited(d, target_modules=["nothing"]), "no module of"),
        (lambda d: with_tensors(d, nan), "not finite"),
        (lambda d: with_tensors(d, lambda t: dict(list(t.items())[1:])), "is missing"),
        (truncated, "is damaged"),
        (pickled, "can run code"),
        (other_layer, "is an embedding or the output head|adapts the linear layers"),
        (lambda d: (d / "adapter_config.json").write_text("[1]"), "adapter_config.json"),
        (lambda d: with_tokenizer(d, lambda t: t.add_tokens(["<new>"])), "other tokens"),
        (
            lambda d: with_tokenizer(d, lambda t: setattr(t, "chat_template", "{{ 1 }}")),
            "another chat template.*serve.chat_template=FILE",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_the_reason(damage, says, lora, base):
    damage(lora)
    with pytest.raises(UserError, match=rf"(?s)^adapters\.a.*{says}"):
        read(lora, base)


def test_a_tokenizer_that_is_the_bases_own_passes_and_so_does_a_template_of_the_server(
    lora, base, tiny_model
):
    with_tokenizer(lora, lambda tokenizer: None)
    assert read(lora, base)
    with_tokenizer(lora, lambda tokenizer: setattr(tokenizer, "chat_template", "{{ 1 }}"))
    assert read(lora, ServedBase.read(str(tiny_model), name="tiny", template="{{ 1 }}"))


def test_another_base_and_a_rank_that_is_too_wide_are_refused(lora, base, tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"rank 4.*serve\.max_rank=2"):
        read(lora, base, rank=2)
    wider = build_tiny_llama(tmp_path / "wider", hidden=128)
    edited(lora, base_model_name_or_path=None)
    with pytest.raises(UserError, match="another base"):
        read(lora, ServedBase.read(str(wider), name="wider", template=None))
    edited(lora, base_model_name_or_path=str(tiny_model))
    alike = build_tiny_llama(tmp_path / "alike", seed=1)
    with pytest.raises(UserError, match="has other weights"):
        read(lora, ServedBase.read(str(alike), name="alike", template=None))


def test_adapters_that_change_no_weight_are_refused(base, tiny_model, tmp_path):
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    place = save(get_peft_model(base_model(tiny_model), prompt), tmp_path / "prompt")
    with pytest.raises(UserError, match=r"tokens in front of a prompt.*adapter=lora"):
        read(place, base)


def test_the_command_refuses_before_it_writes(made, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["serve", f"model.path={tiny_model}", "serve.port=0"]
    cases = {
        f"adapters={{a: {made['dora']}}}": "DoRA",
        f"adapters={{a: {made['lora']}, a: {made['vera']}}}": "a twice",
        f"adapters={{{tiny_model.name}: x, text: x}}": "part of a message",
        "adapters={a: nothing}": "neither an adapter's directory",
        "adapters={b: x} serve.name=b": "has the name of the base",
        "serve.max_adapters=0 serve.max_rank=8": "serve.max_rank has no effect",
        "serve.host=8.8.8.8": "other machines",
        "serve.token=secret": "serve.token_env",
        "serve.chat_template=nowhere": "cannot be read",
        "generator.max_model_len=100000": "at most the model's context",
        f"adapters={{a: {made['lora']}}} serve.max_rank=2": "the rank 4",
    }
    for options, says in cases.items():
        given = [options] if options.startswith("adapters") and " serve" not in options else None
        assert main([*words, *(given or options.rsplit(" ", 1))]) == 2, options
        assert says in " ".join(capsys.readouterr().err.split()), options
    assert list(tmp_path.iterdir()) == []


def test_plan_shows_adapters_and_their_memory(made, tiny_model, capsys):
    words = [f"model.path={tiny_model}", f"adapters={{a: {made['vera']}, b@2: {made['lora']}}}"]
    assert main(["plan", "serve", *words]) == 0
    said = capsys.readouterr().out
    assert "a: VERA, converted to the plain LoRA that it equals of rank 8" in said
    assert "b@2: LORA of rank 4" in said and "room for 8 adapters of rank 16" in said


def test_a_head_beside_the_adapter_is_refused(base, tiny_untied_model, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    place = save(get_peft_model(base_model(tiny_untied_model), config), tmp_path / "head")
    with pytest.raises(UserError, match="whole modules"):
        read(place, base)


def test_an_architecture_that_holds_no_adapter_is_served_alone(tmp_path, monkeypatch, capsys):
    model = build_tiny_family(tmp_path / "model", "gpt2")
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "serve", f"model.path={model}"]) == 2
    assert "no adapter beside GPT2LMHeadModel" in " ".join(capsys.readouterr().err.split())
    assert main(["plan", "serve", f"model.path={model}", "serve.max_adapters=0"]) == 0
