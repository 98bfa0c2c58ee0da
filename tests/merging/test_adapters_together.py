"""Several adapters become one: in plain peft it adds what they add."""

import json

import pytest
import torch
from peft import PeftModel
from peft_adapters import CONFIGS, adapted, base_model, save

from rlpost.cli.main import main
from rlpost.errors import UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.merge.config import MergeConfig, MergeSettings
from rlpost.stages.merge.drive import merge
from rlpost.stages.registry import STAGES

PLAIN = [kind for kind in CONFIGS if kind != "dora"]


@pytest.fixture(scope="module")
def made(tiny_model, tmp_path_factory):
    place = tmp_path_factory.mktemp("adapters")
    for seed, kind in enumerate(CONFIGS):
        save(adapted(tiny_model, kind, seed=seed), place / kind)
    return place


def changes(base, adapter):
    """Module -> what plain peft adds to its weight."""
    model = PeftModel.from_pretrained(base_model(base), adapter)
    return {
        name: module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def added(place, adapters, *, method="concatenation", name="sum", **settings):
    options = MergeSettings(method=method, models=list(map(str, adapters)), **settings)
    cfg = MergeConfig(merge=options)
    cfg.run.dir, cfg.run.name = str(place / "runs"), name
    STAGES["merge"].part("check")(cfg)
    merge(STAGES["merge"], cfg, {"run": {"name": name}})
    run = place / "runs" / name
    return run / "export", json.loads((run / "merge.json").read_text())


def test_concatenation_is_exact_for_every_kind(made, tiny_model, tmp_path):
    weights = [0.5, -1.0, 2.0, 0.25, 1.0][: len(PLAIN)]
    adapters = [made / kind for kind in PLAIN]
    export, report = added(tmp_path, adapters, weights=weights)
    parts = [changes(tiny_model, each) for each in adapters]
    found = changes(tiny_model, export)
    assert found.keys() == parts[0].keys()
    for name, change in found.items():
        wanted = sum(w * part[name] for w, part in zip(weights, parts, strict=True))
        torch.testing.assert_close(change, wanted, atol=1e-5, rtol=1e-5)
    flat = [torch.cat([part[name].flatten() for name in sorted(part)]) for part in parts]
    cosine = float(torch.cosine_similarity(flat[0], flat[1], dim=0))
    assert report["cosines"][0]["cosine"] == pytest.approx(cosine, abs=1e-5)
    assert list(report["norms"].values()) == pytest.approx([float(f.norm()) for f in flat])
    assert report["relative_error"] == 0


def test_svd_is_the_nearest_of_its_rank_and_says_how_far_it_is(made, tiny_model, tmp_path):
    adapters = [made / "lora", made / "rslora"]
    parts = [changes(tiny_model, each) for each in adapters]
    full, report = added(tmp_path, adapters, method="svd", rank=8, name="full")
    assert report["relative_error"] < 1e-6
    near, report = added(tmp_path, adapters, method="svd", rank=3, name="near")
    lost = total = 0.0
    for name, change in changes(tiny_model, near).items():
        wanted = parts[0][name] + parts[1][name]
        torch.testing.assert_close(changes(tiny_model, full)[name], wanted, atol=1e-5, rtol=1e-5)
        u, s, v = torch.linalg.svd(wanted)
        nearest = u[:, :3] @ torch.diag(s[:3]) @ v[:3]
        torch.testing.assert_close(change, nearest, atol=1e-4, rtol=1e-4)
        lost, total = lost + float((s[3:] ** 2).sum()), total + float((s**2).sum())
        if lost > 1e3:
            break
    assert report["relative_error"] == pytest.approx((lost / total) ** 0.5, rel=1e-4)


def test_what_cannot_be_added_is_refused(made, tmp_path):
    other = build_tiny_llama(tmp_path / "other", seed=7)
    stranger = save(adapted(other, "lora"), tmp_path / "stranger")
    for adapters, says in (
        ([made / "lora", stranger], "has other weights"),
        ([made / "lora", made / "dora"], "DoRA"),
        ([made / "lora"], "at least two"),
        ([made / "lora", tmp_path / "nothing"], "neither an adapter"),
    ):
        with pytest.raises(UserError, match=says):
            added(tmp_path, adapters)
    for settings, says in (
        ({"method": "svd"}, "needs it"),
        ({"rank": 3}, "belongs to"),
        ({"density": 0.5}, "whole models"),
    ):
        with pytest.raises(UserError, match=says):
            added(tmp_path, [made / "lora", made / "rslora"], **settings)
    assert not (tmp_path / "runs").exists()


def test_the_command(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(made)
    words = ["merge.method=concatenation", "merge.models=[lora,rslora]", f"run.dir={tmp_path}"]
    assert main(["merge", *words]) == 0
    assert "rank 8, exact" in capsys.readouterr().out
    assert "adapters added" in " ".join((tmp_path / "merge/export/README.md").read_text().split())
