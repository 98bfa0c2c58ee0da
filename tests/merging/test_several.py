"""``rlpost merge`` of several models: the files of the result, and what is refused."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_families import build_tiny_family
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlpost.cli.main import main
from rlpost.errors import UserError
from rlpost.merging.recipe import read_recipe
from rlpost.merging.several import MergeInput, ModelMerge
from rlpost.merging.weights_file import PlannedTensor, write_weights
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.weight_files import stored_tensors
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.merge.config import MergeConfig, MergeSettings
from rlpost.stages.registry import STAGES
from rlpost.stages.run_directory import RunDirectory


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and two fine-tunes of it, in one directory."""
    place = tmp_path_factory.mktemp("merged")
    base = build_tiny_llama(place / "base", layers=3)
    for seed, name in enumerate("ab", start=1):
        shutil.copytree(base, place / name)
        generator = torch.Generator().manual_seed(seed)
        rewrite(
            place / name,
            lambda _, t, generator=generator: t + 0.05 * torch.randn(t.shape, generator=generator),
        )
    return place


def weights(directory):
    return {
        name: each.read() for name, each in stored_tensors(directory, field="model.path").items()
    }


def rewrite(directory, change):
    file = directory / "model.safetensors"
    tensors = {name: change(name, tensor) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return directory


def in_parts(directory, target):
    """Copy a model with its tensors in another order, divided into many files."""
    shutil.copytree(directory, target)
    (target / "model.safetensors").unlink()
    tensors = weights(directory)
    planned = [
        PlannedTensor(name=name, dtype=tensors[name].dtype, shape=tuple(tensors[name].shape))
        for name in sorted(tensors, reverse=True)
    ]
    write_weights(target, planned, tensors.__getitem__, part_bytes=50_000)
    return target


def merged(recipe, place, *, seed=0, dtype=None):
    """Merge in memory."""
    read = read_recipe(recipe, place="it.yaml")
    names = dict.fromkeys([*([read.base] if read.base else []), *read.models])
    given = {name: MergeInput.of(name, ModelDirectory.read(place / name)) for name in names}
    merge = ModelMerge.plan(read, given, dtype=dtype, seed=seed)
    found = {
        name: torch.cat(list(merge.pieces_of(name))).reshape(each.planned.shape)
        for name, each in merge.outputs.items()
    }
    return found, merge


DARE = {
    "merge_method": "dare_ties",
    "base_model": "base",
    "models": [
        {"model": "a", "parameters": {"weight": 0.7, "density": 0.5}},
        {"model": "b", "parameters": {"weight": 0.4, "density": 0.3}},
    ],
}


def test_files_and_their_order_make_no_difference_and_the_seed_does(models, tmp_path):
    for name in ("base", "a", "b"):
        in_parts(models / name, tmp_path / name)
    whole, _ = merged(DARE, models)
    parts, _ = merged(DARE, tmp_path)
    swapped, _ = merged({**DARE, "models": DARE["models"][::-1]}, models)
    other, _ = merged(DARE, models, seed=1)
    for name, value in whole.items():
        assert torch.equal(value, parts[name])
        torch.testing.assert_close(value, swapped[name], atol=1e-6, rtol=0)
    assert any(not torch.equal(value, other[name]) for name, value in whole.items())


def test_gradients_go_from_the_first_layer_to_the_last_and_filters_take_names(models):
    """Linear, so that the weights can be read off the result."""
    cases = [
        {"filter": "mlp", "value": [0, 1]},
        {"filter": "q_proj", "value": 0.25},
        {"value": 1},
    ]
    recipe = {
        "merge_method": "linear",
        "parameters": {"normalize": False},
        "models": [
            {"model": "a", "parameters": {"weight": cases}},
            {"model": "b", "parameters": {"weight": 0}},
        ],
    }
    result, _ = merged(recipe, models)
    a = weights(models / "a")
    wanted = {
        "model.layers.0.mlp.up_proj.weight": 0,
        "model.layers.1.mlp.up_proj.weight": 0.5,
        "model.layers.2.mlp.up_proj.weight": 1,
        "model.layers.1.self_attn.q_proj.weight": 0.25,
        "model.layers.1.self_attn.k_proj.weight": 1,
        "model.norm.weight": 1,
    }
    for name, factor in wanted.items():
        torch.testing.assert_close(result[name], factor * a[name])
    recipe["models"][0]["parameters"] = {"weight": [0.2, 1]}
    result, _ = merged(recipe, models)  # outside layers the first value holds
    torch.testing.assert_close(result["model.norm.weight"], 0.2 * a["model.norm.weight"])


def test_trimming_may_span_the_whole_model(models):
    recipe = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"density": 0.1}}],
        "parameters": {"trim": "model"},
    }
    rewritten = models / "uneven"  # one tensor changed ten times as much as the others
    shutil.copytree(models / "a", rewritten, dirs_exist_ok=True)
    base, a = weights(models / "base"), weights(models / "a")
    far = "model.layers.1.mlp.up_proj.weight"
    rewrite(rewritten, lambda n, t: base[n] + (10 if n == far else 1) * (a[n] - base[n]))
    recipe["models"][0]["model"] = "uneven"
    result, merge = merged(recipe, models)
    taus = {name: value - base[name] for name, value in weights(rewritten).items()}
    sizes = torch.cat([tau.abs().flatten() for tau in taus.values()]).sort(descending=True).values
    threshold = sizes[int(0.1 * len(sizes)) - 1]
    for name, tau in taus.items():
        kept = tau.abs() >= threshold
        if kept.any():
            torch.testing.assert_close(result[name], base[name] + tau * kept, atol=1e-6, rtol=0)
        else:
            assert int((result[name] != base[name]).sum()) == 1  # nothing is zeroed whole
    report = merge.measures.record()
    assert report["kept_density"]["uneven"] == pytest.approx(0.1, abs=0.001)
    assert report["tensors"][far]["kept"][0] > 0.5
    recipe["models"][0]["parameters"]["density"] = [0.1, 0.5]
    with pytest.raises(UserError, match="the same in all tensors"):
        merged(recipe, models)


def test_slices_choose_layers_and_the_result_loads(models, tmp_path, monkeypatch):
    monkeypatch.chdir(models)
    recipe = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 1]}]},
            {"sources": [{"model": "b", "layer_range": [2, 3]}]},
        ],
    }
    (tmp_path / "it.yaml").write_text(yaml.safe_dump(recipe))
    words = [f"merge.config={tmp_path / 'it.yaml'}", f"run.dir={tmp_path}", "run.name=cut"]
    assert main(["merge", *words]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "cut/export")
    assert model.config.num_hidden_layers == 2
    name = "model.layers.{}.mlp.up_proj.weight"
    result, a, b = model.state_dict(), weights(models / "a"), weights(models / "b")
    assert torch.equal(result[name.format(0)], a[name.format(0)])
    assert torch.equal(result[name.format(1)], b[name.format(2)])
    assert torch.equal(result["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(result["model.norm.weight"], b["model.norm.weight"])


def test_the_command_writes_a_model_its_report_and_its_card(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(models)
    words = ["merge.method=ties", "merge.models=[a,b]", "model.path=base", "merge.density=0.4"]
    here = [f"run.dir={tmp_path}", "run.name=it"]
    assert main(["merge", *words, "merge.dtype=bfloat16", *here]) == 0
    export = tmp_path / "it/export"
    model = AutoModelForCausalLM.from_pretrained(export, dtype="auto")
    assert model.dtype is torch.bfloat16
    result, base = weights(export), weights(models / "base")
    assert "lm_head.weight" not in result and result.keys() == base.keys()
    assert AutoTokenizer.from_pretrained(export).get_vocab()
    report = json.loads((tmp_path / "it/merge.json").read_text())
    taus = [
        torch.cat([(weights(models / n)[k] - base[k]).flatten() for k in sorted(base)]).double()
        for n in "ab"
    ]
    assert report["measured"] == "task vectors"
    norms = {name: float(tau.norm()) for name, tau in zip("ab", taus, strict=True)}
    assert report["norms"] == pytest.approx(norms)
    cosine = float(taus[0] @ taus[1] / taus[0].norm() / taus[1].norm())
    assert report["cosines"][0]["cosine"] == pytest.approx(cosine, abs=1e-5)
    conflicts = float((taus[0] * taus[1] < 0).double().mean())
    assert report["sign_conflicts"] == pytest.approx(conflicts, abs=1e-6)
    assert report["kept_density"] == pytest.approx({"a": 0.4, "b": 0.4}, abs=0.01)
    card = (export / "README.md").read_text()
    prints = {
        n: MergeInput.of(n, ModelDirectory.read(models / n)).fingerprint for n in ("base", "a")
    }
    assert all(each in card for each in prints.values())
    assert "kept" in capsys.readouterr().out
    assert main(["merge", *words, *here]) == 2  # it is taken


def test_a_base_in_the_list_is_no_ingredient_and_slerp_starts_from_it(models):
    with_base = {**DARE, "models": [{"model": "base"}, *DARE["models"]]}
    for name, value in merged(with_base, models)[0].items():
        assert torch.equal(value, merged(DARE, models)[0][name])
        break
    recipe = {
        "merge_method": "slerp",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "base"}],
        "parameters": {"t": 0},
    }
    base = weights(models / "base")
    assert all(torch.allclose(v, base[n]) for n, v in merged(recipe, models)[0].items())


WRONG = {
    "M: lineer\nmodels: [{model: a}]": "did you mean 'linear'",
    "M: linear\nmodels: [{model: a}]\nchat_template: auto": "chat_template is not",
    "M: linear\nmodels: [{model: a}]\ntokenizer_source: union": "union is not",
    "M: ties\nmodels: [{model: a}, {model: b}]": "no.* is named",
    "M: ties\nbase_model: base\nmodels: [{model: a}]\nparameters: {density: 0}": r"\(0, 1\]",
    "M: ties\nbase_model: base\nmodels: [{model: a}]\nparameters: {density: 1.5}": r"\(0, 1\]",
    "M: linear\nmodels: [{model: a}]\nparameters: {weight: 0}": "sum of the weights",
    "M: linear\nmodels: [{model: a}]\nparameters: {density: 1}": "density is not known",
    "M: linear\nmodels: [{model: a}]\nparameters: {weight: big}": "must be a number",
    "M: slerp\nmodels: [{model: a}]": "takes 2 models",
    "M: linear\nmodels: [{model: a}, {model: a}]": "twice",
    "M: linear\nmodels: [{model: a+b}]": "adapter",
    "M: linear\nmodels: []": "must be a list",
    "M: linear": "either models or slices",
    "models: [{model: a}]": "merge_method must name",
    "- a": "must hold keys",
    "a: [": "cannot be read in line",
    "M: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 9]}]}]": "3 layers",
    "M: linear\ndtype: int8\nmodels: [{model: a}]": "dtype must be one of",
    "M: linear\nmodels: [{model: narrow}, {model: a}]": "hidden_size",
    "M: linear\nmodels: [{model: a}, {model: gpt2}]": "one architecture",
    "M: linear\nmodels: [{model: a}, {model: wider}]": "without adding tokens",
    "M: linear\nmodels: [{model: a}, {model: untied}]": "same head",
    "M: linear\nmodels: [{model: a}, {model: half}]": "say which type",
    "M: linear\nmodels: [{model: a}, {model: other_end}]": "whose tokenizer",
    "M: linear\nmodels: [{model: a}, {model: other_tokens}]": "one vocabulary",
    "M: linear\nmodels: [{model: a}, {model: cut}]": "cut off",
    "M: linear\nmodels: [{model: a}, {model: lying}]": "what cannot be",
    "M: linear\nmodels: [{model: a}, {model: lacking}]": "lack",
    "M: linear\nmodels: [{model: a}, {model: pickled}]": "formats that can",
    "M: linear\nmodels: [{model: a}, {model: shardless}]": "which is not there",
    "M: linear\nmodels: [{model: a}, {model: nowhere/to/be}]": "does not exist",
}


@pytest.fixture(scope="module")
def broken(models):
    """Beside the good models, one for each way to be wrong."""
    build_tiny_llama(models / "narrow", layers=3, hidden=128)
    build_tiny_llama(models / "wider", layers=3, vocabulary=384)
    build_tiny_llama(models / "untied", layers=3, tied=False)
    build_tiny_family(models / "gpt2", "gpt2")
    copies = (
        "half",
        "other_end",
        "other_tokens",
        "cut",
        "lying",
        "lacking",
        "pickled",
        "shardless",
    )
    for name in copies:
        shutil.copytree(models / "a", models / name)
    rewrite(models / "half", lambda _, tensor: tensor.half())
    tokenizer = AutoTokenizer.from_pretrained(models / "a")
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(models / "other_end")
    file = models / "other_tokens/tokenizer.json"
    file.write_text(file.read_text().replace('"A":', '"AA":'))
    file = models / "cut/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    file = models / "lying/model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"shape":[64]', b'"shape":[63]', 1))
    tensors = load_file(models / "lacking/model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, models / "lacking/model.safetensors")
    (models / "pickled/model.safetensors").rename(models / "pickled/pytorch_model.bin")
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (models / "shardless/model.safetensors.index.json").write_text(json.dumps(index))
    return models


def prepared(place, **settings):
    """Check and plan as the command does, after it has read its options."""
    cfg = MergeConfig(adapter=settings.pop("adapter", None), merge=MergeSettings(**settings))
    cfg.run.dir, cfg.run.name = str(place / "runs"), "it"
    STAGES["merge"].part("check")(cfg)
    return STAGES["merge"].part("plan")(cfg, directory=RunDirectory.of(cfg.run))


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_merged_is_refused(text, broken, tmp_path, monkeypatch):
    monkeypatch.chdir(broken)
    file = tmp_path / "it.yaml"
    file.write_text(text.replace("M:", "merge_method:"))
    with pytest.raises(UserError, match=WRONG[text]):
        prepared(tmp_path, config=str(file))


AB = {"method": "linear", "models": ["a", "b"]}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({**AB, "adapter": "x"}, "not both"),
        ({}, "merge one thing"),
        ({"method": "linear"}, "belong together"),
        ({"models": ["a", "b"]}, "belong together"),
        ({**AB, "method": "greedy_sup"}, "did you mean greedy_soup"),
        ({**AB, "weights": [1.0]}, "one number for each of the 2"),
        ({**AB, "weights": [0.0, 0.0]}, "sum of the weights"),
        ({**AB, "t": 0.5}, r"parameters\.t is not known"),
        ({**AB, "dequantize": False}, r"merge\.dequantize=False has an effect"),
        ({**AB, "tokenizer": "c"}, "none of the models"),
        ({"config": "it.yaml", "t": 0.5}, "say it in the file"),
        ({"config": "nothing.yaml"}, "cannot be read"),
        ({"adapter": "x", "density": 0.5}, r"merge\.density=0\.5 has an effect"),
    ],
)
def test_options_without_effect_are_refused(settings, says, models, tmp_path, monkeypatch):
    monkeypatch.chdir(models)
    with pytest.raises(UserError, match=says):
        prepared(tmp_path, **settings)


def test_the_command_refuses_before_it_writes(broken, tmp_path, monkeypatch):
    monkeypatch.chdir(broken)
    words = ["merge.method=linear", "merge.models=[a,narrow]", f"run.dir={tmp_path / 'runs'}"]
    assert main(["merge", *words]) == 2
    assert not (tmp_path / "runs").exists()


def test_weights_that_turn_out_to_be_damaged_leave_nothing(models, tmp_path, monkeypatch):
    """Only the first values of a tensor are looked at beforehand."""
    shutil.copytree(models / "a", tmp_path / "late")

    def damaged(name, tensor):
        if name == "model.embed_tokens.weight":
            tensor[-1, -1] = float("nan")
        return tensor

    rewrite(tmp_path / "late", damaged)
    monkeypatch.chdir(tmp_path)
    words = ["merge.method=linear", f"merge.models=[{models / 'a'},late]"]
    assert main(["merge", *words]) == 2
    left = {path.name for path in (tmp_path / "runs/merge").iterdir()}
    assert left == {".lock", "config.yaml", "run.log"}


def test_what_a_killed_merge_leaves_is_no_model_and_the_same_command_completes_it(
    models, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models / "a", tmp_path / "a")
    shutil.copytree(models / "b", tmp_path / "b")
    plan = prepared(tmp_path, **AB)
    file = tmp_path / "b/model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])  # the merge ends in the middle of its output
    run = RunDirectory(root=tmp_path / "runs/it")
    scratch = run.root / ".export-scratch"
    scratch.mkdir(parents=True)
    with pytest.raises(UserError, match="became shorter"):
        plan.write(scratch, directory=run, settings_hash="")
    assert not run.export.exists() and not (run.root / "merge.json").exists()
    with pytest.raises(UserError, match="cut off"):
        ModelDirectory.read(scratch)
    file.write_bytes(whole)
    assert main(["merge", "merge.method=linear", "merge.models=[a,b]", "run.name=it"]) == 0
    assert not scratch.exists()
    a, b = weights(models / "a"), weights(models / "b")
    for name, value in weights(run.export).items():
        torch.testing.assert_close(value, (a[name] + b[name]) / 2)
