"""What is put on a base is checked without its weights, and refused where it does not fit."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlpost.errors import UserError
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.tiny import build_tiny_llama
from rlpost.training.adapters import adapters
from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.adapters.config import NoAdapterConfig, Served, is_own_reference
from rlpost.training.adapters.directory import AdapterDirectory
from rlpost.training.adapters.planning import plan_adaptation
from rlpost.training.adapters.serving import engine_rank, serves_as


def config(kind: str = "lora", **options):
    return adapters.get(kind).config(**options)


def planned(path, options=None, *, start=None, kind=ModelKind.policy) -> Adaptation | None:
    return plan_adaptation(
        NoAdapterConfig() if options is None else options,
        start=None if start is None else str(start),
        base=ModelDirectory.read(path),
        name=str(path),
        kind=kind,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_model):
    """A LoRA of rank 4 that peft made and saved on the tiny model."""
    import peft
    from packed_groups import load_plain

    directory = tmp_path_factory.mktemp("adapter")
    options = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    peft.get_peft_model(load_plain(tiny_model), options).save_pretrained(directory)
    return directory


@pytest.fixture
def changed(saved, tmp_path):
    """A copy of ``saved`` whose files a test may change."""
    return shutil.copytree(saved, tmp_path / "changed")


def test_what_is_trained_is_counted_without_weights(tiny_model):
    # Per layer, rank 4: q and o 64x64, k and v 64x32, gate and up 64x128, down 128x64.
    per_layer = 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert planned(tiny_model, config(rank=4)).num_trainable == 2 * per_layer
    lengths = 64 + 64 + 32 + 32 + 128 + 128 + 64  # DoRA trains the length of each output, too
    assert planned(tiny_model, config("dora", rank=4)).num_trainable == 2 * (per_layer + lengths)
    only = planned(tiny_model, config(rank=4, target_modules=["layers.1.self_attn.q_proj"]))
    assert only.num_trainable == 4 * (64 + 64)
    outcome = planned(tiny_model, config(rank=4), kind=ModelKind.outcome)
    assert outcome.num_trainable == 2 * per_layer
    assert planned(tiny_model) is None


def test_an_adapter_directory_says_its_kind_and_is_continued_or_merged(tiny_model, saved):
    continued = planned(tiny_model, start=saved)
    assert continued.config == config(rank=4, alpha=8.0, target_modules=["down_proj", "q_proj"])
    assert (continued.continues, continued.merges) == (str(saved), None)
    assert continued.num_trainable == 2 * 4 * (64 + 64 + 128 + 64)
    stacked = planned(tiny_model, config(rank=2), start=saved)
    assert (stacked.continues, stacked.merges) == (None, str(saved))


def test_only_a_new_adapter_leaves_a_reference_in_its_base(tiny_model, saved):
    assert planned(tiny_model, config()).is_own_reference
    assert planned(tiny_model, config()).frozen() is None
    continued = planned(tiny_model, start=saved)
    stacked = planned(tiny_model, config(), start=saved)
    assert not continued.is_own_reference and continued.frozen() == continued
    assert not stacked.is_own_reference and stacked.frozen().merges == str(saved)
    assert not is_own_reference(NoAdapterConfig(), start=None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_modules": ["typo"]}, "no module of LlamaForCausalLM is called 'typo'.*q_proj"),
        ({"target_modules": ["q_proj", "typo"]}, "'typo'"),
        ({"target_modules": ["embed_tokens"]}, "adapter.target_modules.*embedding"),
        ({"target_modules": ["lm_head"]}, "output head.*modules_to_save"),
        ({"modules_to_save": ["typo"]}, "adapter.modules_to_save: no module"),
        ({"modules_to_save": ["embed_tokens"]}, "adapter.modules_to_save.*adapter=none"),
    ],
)
def test_modules_that_no_adapter_can_be_put_on_are_refused(tiny_model, options, words):
    with pytest.raises(UserError, match=words):
        planned(tiny_model, config(**options))


def test_an_embedding_of_its_own_is_trained_as_a_whole(tiny_untied_model):
    plan = planned(tiny_untied_model, config(rank=1, modules_to_save=["embed_tokens"]))
    assert plan.num_trainable > 320 * 64


@pytest.mark.parametrize("targets", ["q_proj", "", [], [1], ["a b"], {"a": 1}, None, ["../x"]])
def test_targets_are_all_linear_or_names(targets):
    with pytest.raises(UserError, match=r"adapter\.target_modules must be all-linear, or a list"):
        config(target_modules=targets).check("adapter")


def test_an_adapter_of_other_weights_or_shapes_is_refused(tmp_path, tiny_model, changed):
    other = build_tiny_llama(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match=r"model.adapter.*other weights; give its base"):
        planned(other, start=changed)
    wider = build_tiny_llama(tmp_path / "wider", hidden=128)
    rewrite(changed, base_model_name_or_path="somebody/elses")
    with pytest.raises(UserError, match=r"has the shape.*adapter of another base"):
        planned(wider, start=changed)
    assert planned(tiny_model, start=changed) is not None  # negative control


def rewrite(directory, **fields) -> None:
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "IA3"},
        {"r": "many"},
        {"r": None},
        {"r": 10**9},
        {"bias": "all"},
        {"lora_alpha": "x"},
        {"target_modules": 3},
        {"rank_pattern": [1]},
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(tiny_model, changed, fields):
    rewrite(changed, **fields)
    with pytest.raises(UserError, match=r"model\.adapter"):
        planned(tiny_model, start=changed)


def test_hostile_files_are_refused_by_name(tmp_path, tiny_model, changed):
    for path in (tmp_path / "nowhere", tiny_model):
        with pytest.raises(UserError, match=r"model\.adapter.*adapter_config\.json.*no adapter"):
            planned(tiny_model, start=path)
    weights = changed / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({n: t for n, t in tensors.items() if "layers.1" not in n}, weights)
    with pytest.raises(UserError, match=r"is missing"):
        planned(tiny_model, start=changed)
    save_file({"x": torch.ones(1)}, weights)
    with pytest.raises(UserError, match=re.escape("base_model.model.")):
        planned(tiny_model, start=changed)
    weights.write_bytes(b"\x00" * 64)
    with pytest.raises(UserError, match="damaged"):
        planned(tiny_model, start=changed)
    weights.rename(changed / "adapter_model.bin")
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors.*recent peft"):
        planned(tiny_model, start=changed)
    (changed / "adapter_config.json").write_text("[")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        AdapterDirectory.read(changed)


def test_engines_serve_what_is_plain_lora_or_becomes_it_and_get_whole_weights_of_others():
    assert serves_as(config()) is serves_as(config("rslora")) is Served.adapter
    assert serves_as(config(modules_to_save=["norm"])) is Served.merged
    assert serves_as(config("dora")) is serves_as(NoAdapterConfig()) is Served.merged
    for kind, options, rank in (
        ("adalora", {"rank": 300, "initial_rank": 512}, 512),
        ("vera", {"rank": 512}, 512),
        ("pissa", {"rank": 256}, 512),
    ):
        fits = config(kind, **options)
        assert (serves_as(fits), fits.served_rank) == (Served.adapter, rank)
        wider = {**options, "initial_rank" if "initial_rank" in options else "rank": 513}
        assert serves_as(config(kind, **wider)) is Served.merged
        assert serves_as(config(kind, modules_to_save=["norm"])) is Served.merged
    assert serves_as(config("qlora")) is Served.merged
    assert [engine_rank(rank) for rank in (1, 2, 16, 17, 512)] == [1, 8, 16, 32, 512]
    with pytest.raises(UserError, match=r"adapter\.rank must be at most 512.*got 513"):
        engine_rank(513)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj"]},  # tensors of down_proj have no place
        {"layers_to_transform": [0]},
        {"exclude_modules": ["down_proj"]},
    ],
)
def test_tensors_that_the_configuration_puts_nowhere_are_not_lost(tiny_model, changed, fields):
    rewrite(changed, **fields)
    with pytest.raises(UserError, match=r"belongs to no layer.*it would be lost"):
        planned(tiny_model, start=changed)


def test_tensors_are_finite_numbers_of_a_type_that_is_trained(tiny_model, changed):
    weights = changed / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(iter(tensors))
    for dtype in (torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn):
        save_file({**tensors, name: torch.zeros(tensors[name].shape).to(dtype)}, weights)
        with pytest.raises(UserError, match=r"model\.adapter.*is of the type"):
            planned(tiny_model, start=changed)
    save_file({**tensors, name: torch.tensor(1.0)}, weights)
    with pytest.raises(UserError, match=r"the shape \(\)"):
        planned(tiny_model, start=changed)
    save_file({**tensors, name: torch.full_like(tensors[name], float("nan"))}, weights)
    with pytest.raises(UserError, match="not finite numbers"):
        planned(tiny_model, start=changed)


@pytest.mark.parametrize("base", ["x" * 5000, "a\0b", ".", "~nobody-of-that-name/x", 5, None, ""])
def test_a_base_that_is_not_on_this_machine_is_not_looked_for(tiny_model, changed, base):
    rewrite(changed, base_model_name_or_path=base)
    assert planned(tiny_model, start=changed) is not None
