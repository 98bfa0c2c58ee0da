"""Broken model directories: each is one paragraph that names the file, before anything starts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import build_tiny_family
from transformers import AutoModelForCausalLM

from rlpost.errors import UserError
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.tiny import build_tiny_llama

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"


def edit(path: Path, **fields) -> None:
    """Change fields of a JSON file; ``...`` removes one."""
    data = json.loads(path.read_text())
    data.update(fields)
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))


def config(**fields):
    return lambda d: edit(d / CONFIG, **fields)


def text(name: str, content: str | bytes):
    data = content if isinstance(content, bytes) else content.encode()
    return lambda d: (d / name).write_bytes(data)


def without(*names: str):
    return lambda d: [(d / name).unlink() for name in names]


def weights(change):
    def damage(d: Path) -> None:
        tensors = load_file(d / WEIGHTS)
        save_file(change(tensors) or tensors, d / WEIGHTS, metadata={"format": "pt"})

    return damage


def lack(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]


def add(tensors):
    tensors["model.layers.0.mlp.extra.weight"] = torch.zeros(3)


def reshape(tensors):
    tensors["model.layers.0.self_attn.o_proj.weight"] = torch.zeros(64, 96)


def fill(value):
    def change(tensors):
        tensors["model.norm.weight"][3] = value

    return change


def float8(tensors):
    return {name: t.to(torch.float8_e4m3fn) if t.dim() == 2 else t for name, t in tensors.items()}


def cut(num: int):
    def damage(d: Path) -> None:
        data = (d / WEIGHTS).read_bytes()
        (d / WEIGHTS).write_bytes(data[:num])

    return damage


def shard(d: Path) -> None:
    AutoModelForCausalLM.from_pretrained(d).save_pretrained(d, max_shard_size="100KB")
    (d / WEIGHTS).unlink(missing_ok=True)


def lose_a_shard(d: Path) -> None:
    shard(d)
    sorted(d.glob("model-*.safetensors"))[0].unlink()


def lose_the_index(d: Path) -> None:
    shard(d)
    (d / INDEX).unlink()


def escape(d: Path) -> None:
    shard(d)
    edit(d / INDEX, weight_map={"model.norm.weight": "../elsewhere.safetensors"})


def pickled(d: Path) -> None:
    (d / WEIGHTS).rename(d / "pytorch_model.bin")


def only_an_adapter(d: Path) -> None:
    for file in d.iterdir():
        file.unlink()
    (d / "adapter_config.json").write_text("{}")
    (d / "adapter_model.safetensors").write_bytes(b"")


def small_vocabulary(d: Path) -> None:
    """As if somebody had added tokens and not resized the model."""
    model = AutoModelForCausalLM.from_pretrained(d)
    model.resize_token_embeddings(200)
    model.save_pretrained(d)


def large_vocabulary(d: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(d)
    model.resize_token_embeddings(900)
    model.save_pretrained(d)


def emptied(d: Path) -> None:
    shutil.rmtree(d)
    d.mkdir()


BROKEN = {
    # the directory
    "empty": (emptied, "is empty"),
    "no config": (without(CONFIG), r"no config\.json"),
    "only an adapter": (only_an_adapter, r"adapter_config\.json says.*merge"),
    "an adapter beside the model": (
        text("adapter_config.json", "{}"),
        "merge it with `rlpost merge adapter=",
    ),
    # the config
    "config cut off": (text(CONFIG, '{"model_type": "lla'), r"config\.json cannot be read as JSON"),
    "config not UTF-8": (text(CONFIG, b"\xff\xfe\x00"), r"config\.json cannot be read as JSON"),
    "config a list": (text(CONFIG, "[1]"), "must hold a JSON object, got list"),
    "config nested too deeply": (text(CONFIG, "[" * 100_000), "cannot be read as JSON"),
    "no model type": (config(model_type=...), "must name its `model_type`"),
    "model type a number": (config(model_type=3), "must name its `model_type`, got 3"),
    "unknown model type": (config(model_type="llama99"), "'llama99', which the installed"),
    "code of its own": (
        config(model_type="theirs", auto_map={"AutoConfig": "c.Theirs"}),
        "such code is never run",
    ),
    "no architectures": (config(architectures=...), "in `architectures`, got None"),
    "architectures null": (config(architectures=None), "in `architectures`, got None"),
    "architectures empty": (config(architectures=[]), r"in `architectures`, got \[\]"),
    "hidden size null": (config(hidden_size=None), r"hidden_size|config\.json"),
    "layers a text": (config(num_hidden_layers="two"), r"num_hidden_layers|config\.json"),
    "layers negative": (config(num_hidden_layers=-1), "num_hidden_layers"),
    "vocabulary zero": (config(vocab_size=0), "vocab_size"),
    "heads do not divide": (config(num_attention_heads=7, head_dim=None), r"llama|head|shape"),
    "activation unknown": (config(hidden_act="nonsense"), "nonsense"),
    "gptq": (config(quantization_config={"quant_method": "gptq"}), r"quantized \(gptq\)"),
    "fp8": (config(quantization_config={"quant_method": "fp8"}), r"quantized \(fp8\)"),
    "the class of another type": (
        config(architectures=["Qwen3ForCausalLM"]),
        "names the class Qwen3ForCausalLM, and its model type 'llama' is LlamaForCausalLM",
    ),
    "a base model": (config(architectures=["LlamaModel"]), "LlamaModel.*not a causal"),
    "a classifier": (
        config(architectures=["LlamaForSequenceClassification"]),
        "is a classifier or reward model",
    ),
    "an encoder and decoder": (
        config(model_type="t5", architectures=["T5ForConditionalGeneration"]),
        "an encoder with a decoder",
    ),
    "a vision model": (
        config(model_type="llava", architectures=["LlavaForConditionalGeneration"]),
        "reads images or sound",
    ),
    # the weights
    "no weights": (without(WEIGHTS), "holds no weights"),
    "only a pickle": (pickled, r"pytorch_model\.bin.*run code.*writes safetensors"),
    "a shard is missing": (lose_a_shard, r"index\.json names model-00001.*not there"),
    "the index is missing": (lose_the_index, r"neither model\.safetensors nor"),
    "shards and the whole": (
        lambda d: [shutil.copy(d / WEIGHTS, d / "w"), shard(d), (d / "w").rename(d / WEIGHTS)],
        "move one of the two",
    ),
    "an index without a map": (text(INDEX, "{}"), "must hold a `weight_map`"),
    "an index that is no JSON": (text(INDEX, "{"), r"index\.json cannot be read as JSON"),
    "an index that points elsewhere": (escape, "must hold a `weight_map`"),
    "weights empty": (text(WEIGHTS, b""), r"0 bytes\) is cut off"),
    "weights cut in the header": (cut(40), r"safetensors \(40 bytes\) is cut off"),
    "weights cut in the data": (cut(50_000), "is cut off: it has 50,000 of"),
    "weights of git-lfs": (
        text(WEIGHTS, "version https://git-lfs.github.com/spec/v1"),
        "git lfs",
    ),
    "weights of zeros": (text(WEIGHTS, bytes(4096)), "no safetensors file"),
    "a header that is no JSON": (text(WEIGHTS, (9).to_bytes(8, "little") + b"{" * 9), "damaged"),
    "a header without shapes": (
        text(WEIGHTS, (9).to_bytes(8, "little") + b'{"a": {}}'),
        "is damaged",
    ),
    "consolidated weights beside": (
        lambda d: shutil.copy(d / WEIGHTS, d / "consolidated.safetensors"),
        "consolidated.safetensors beside",
    ),
    "adapter weights beside": (
        lambda d: shutil.copy(d / WEIGHTS, d / "adapter_model.safetensors"),
        "adapter_model.safetensors beside",
    ),
    "a tensor is missing": (weights(lack), r"lack model\.layers\.1\.mlp\.up_proj\.weight"),
    "a tensor too many": (weights(add), r"hold model\.layers\.0\.mlp\.extra\.weight"),
    "a tensor of another shape": (weights(reshape), "has the shape 64x96.*needs 64x64"),
    "fewer layers than weights": (config(num_hidden_layers=1), "has no place"),
    "more layers than weights": (config(num_hidden_layers=3), "would start at random"),
    "layers without end": (config(num_hidden_layers=10**9), "1000000000 layers.*tensors in all"),
    "another width": (config(intermediate_size=99), "has the shape"),
    "NaN": (weights(fill(float("nan"))), r"values in model\.norm\.weight.*not finite"),
    "infinity": (weights(fill(float("inf"))), r"values in model\.norm\.weight.*not finite"),
    "float8 weights": (weights(float8), "F8_E4M3.*quantized"),
    # the tokenizer
    "no tokenizer": (without(TOKENIZER), "holds no tokenizer"),
    "a damaged tokenizer": (text(TOKENIZER, "{"), "tokenizer in .* cannot be read"),
    "an empty tokenizer": (text(TOKENIZER, "{}"), "tokenizer in .* cannot be read"),
    "vocabulary below the tokenizer's": (small_vocabulary, "go up to 258.* 200 embeddings"),
    "tokenizer of a small model": (large_vocabulary, "knows 259 tokens, and the model has 900"),
    "a negative end of a text": (config(eos_token_id=-5), "names -5 as its `eos_token_id`"),
    "NaN in the config": (config(rms_norm_eps=float("nan")), "`rms_norm_eps` .*not a number"),
    "unknown end of a text": (config(eos_token_id=300), "names 300 as its `eos_token_id`"),
    "an empty template": (text("chat_template.jinja", ""), "is empty"),
    "a blank template": (text("chat_template.jinja", " \n"), "is empty"),
    "a template with an error": (
        text("chat_template.jinja", "{% for m in messages %}\n{{ m['content'] }"),
        "line 2 of the chat template.*no Jinja",
    ),
    "a template that never ends": (
        text("chat_template.jinja", "{% for m in messages %}{{ m }}"),
        "line 1 of the chat template.*no Jinja",
    ),
}


def read_whole(path: Path, **options):
    """All that is asked of a policy's directory."""
    directory = ModelDirectory.read(path, **options)
    directory.checkpoint_shapes()
    directory.tokenizer()
    return directory


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_directory_is_refused_in_one_paragraph(name, tmp_path):
    damage, reason = BROKEN[name]
    path = build_tiny_llama(tmp_path / "model", tied=False)
    read_whole(path)  # whole before
    damage(path)
    with pytest.raises(UserError, match=r"^model\.path: ") as refused:
        read_whole(path)
    assert refused.match(f"(?s){reason}")
    message = str(refused.value)
    assert str(path) in message and "\n" not in message and len(message) < 900


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt2"])
def test_whole_directories_are_accepted(family, tmp_path):
    read_whole(build_tiny_family(tmp_path / "m", family))


def test_a_sharded_model_with_its_publishers_own_files_is_accepted(tmp_path):
    """As Mistral publishes: shards and index beside ``consolidated.safetensors``."""
    path = build_tiny_llama(tmp_path / "m")
    shard(path)
    save_file({"tok_embeddings.weight": torch.zeros(2)}, path / "consolidated.safetensors")
    (path / "params.json").write_text("{}")
    read_whole(path)


def test_constants_that_old_transformers_saved_are_left_out(tmp_path):
    path = build_tiny_family(tmp_path / "m", "gpt_neox")
    tensors = load_file(path / WEIGHTS)
    tensors["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(4)
    tensors["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    tensors["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})
    names = read_whole(path).checkpoint_shapes()
    assert not any(name.endswith(("inv_freq", "attention.bias", "masked_bias")) for name in names)


def test_a_checkpoint_of_the_bare_decoder_gets_the_names_of_the_whole_model(tmp_path):
    """As the first GPT-2 was published: without `transformer.`, with its causal masks."""
    path = build_tiny_family(tmp_path / "m", "gpt2")
    tensors = load_file(path / WEIGHTS)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    save_file(bare, path / WEIGHTS, metadata={"format": "pt"})
    assert read_whole(path).checkpoint_shapes().keys() == tensors.keys()


def test_code_beside_a_known_architecture_is_not_run(tmp_path):
    path = build_tiny_llama(tmp_path / "m")
    edit(path / CONFIG, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"})
    (path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    read_whole(path)
    assert not (tmp_path / "ran").exists()


def test_an_error_names_the_field_of_the_model(tmp_path):
    with pytest.raises(UserError, match=r"^critic\.init_from: "):
        ModelDirectory.read(tmp_path, field="critic.init_from", kind=ModelKind.critic)


def test_the_sample_of_a_tensor_is_its_first_values(tmp_path):
    path = build_tiny_llama(tmp_path / "m")
    stored = load_file(path / WEIGHTS)
    for name, tensor in ModelDirectory.read(path).tensors.items():
        count = min(4096, tensor.numel)
        assert np.array_equal(tensor.sample(), stored[name].view(-1)[:count])
