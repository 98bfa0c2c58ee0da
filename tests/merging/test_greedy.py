"""The greedy soup: by scorers whose best set is known, alone and in the command's plan."""

import json
from pathlib import Path

import pytest
import torch

from rlpost.cli.main import main
from rlpost.errors import RunFailed, UserError
from rlpost.merging.greedy import greedy_soup
from rlpost.models.directory.weight_files import stored_tensors
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.driver import RunOutcome
from rlpost.stages.merge.config import MergeConfig, MergeSettings, check_merge
from rlpost.stages.merge.several import prepare_mean
from rlpost.stages.merge.soup import SoupPlan, mean_score, prepare_soup, require_answers
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.tracker import RunStatus

VALUES = {"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.7}


def test_a_model_is_kept_if_the_score_does_not_fall():
    asked = []

    def score(models):
        asked.append(models)
        fall = 0.2 if "c" in models and len(models) > 1 else 0
        return max(VALUES[each] for each in models) - fall

    soup = greedy_soup(list(VALUES), score)
    assert soup.kept == ("b", "d", "a") and soup.score == 0.9
    assert asked == [("a",), ("b",), ("c",), ("d",), ("b", "c"), ("b", "d"), ("b", "d", "a")]
    assert [each.kept for each in soup.trials] == [False, True, False, False, False, True, True]


def test_one_model_is_its_own_soup():
    assert greedy_soup(["a"], lambda models: 0.1).kept == ("a",)


def test_whoever_interrupts_an_evaluation_interrupts_the_merge():
    require_answers(RunOutcome(status=RunStatus.done, message=""))
    with pytest.raises(KeyboardInterrupt):
        require_answers(RunOutcome(status=RunStatus.interrupted, message=""))
    with pytest.raises(RunFailed, match="could not be evaluated: no room"):
        require_answers(RunOutcome(status=RunStatus.failed, message="no room"))


def test_a_candidate_needs_a_score_of_every_suite():
    row = {"val-core/a/missing": 0.0, "val-core/a/acc/mean@2": 0.5, "val-core/b/missing": 0.0,
           "val-core/b/acc/mean@2": 1.0, "val-core/b/acc/mean@2/low": 0.2}  # fmt: skip
    assert mean_score(row, message="") == 0.75
    unscored = {**row, "val-core/c/missing": 9.0}
    for rows in (unscored, {**unscored, "val-core/c/acc/mean@2": None}, {}):
        with pytest.raises(RunFailed, match=r"a suite gave no score .*: 9 of 9 judged none"):
            mean_score(rows, message="9 of 9 judged none")


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        build_tiny_llama(tmp_path / name, seed=seed)
    return tmp_path


def config(*models, **settings):
    cfg = MergeConfig(merge=MergeSettings(method="greedy_soup", models=list(models), **settings))
    cfg.run.dir, cfg.run.name = "runs", "soup"
    return cfg


def test_the_plan_scores_whole_candidates_and_writes_the_mean_of_what_was_kept(models):
    """The score is minus the distance from the mean of b and c, so those two are best."""
    tensors = {
        name: {k: t.read() for k, t in stored_tensors(models / name, field="it").items()}
        for name in "abc"
    }
    wanted = {name: (tensors["b"][name] + tensors["c"][name]) / 2 for name in tensors["a"]}
    places = []

    def score(model, place):
        found = stored_tensors(model, field="it")
        places.append(place)
        return -sum(float((found[name].read() - wanted[name]).norm()) for name in wanted)

    cfg = config("a", "b", "c")
    plan = SoupPlan(
        mean_of=lambda some: prepare_mean(cfg, some), models=("a", "b", "c"), score=score,
        size_bytes=0,
    )  # fmt: skip
    directory = RunDirectory.of(cfg.run)
    scratch = directory.root / ".export-scratch"
    scratch.mkdir(parents=True)
    told = plan.write(scratch, directory=directory, settings_hash="")
    written = {name: each.read() for name, each in stored_tensors(scratch, field="it").items()}
    assert all(torch.allclose(written[name], wanted[name], atol=1e-6) for name in wanted)
    report = json.loads((directory.root / "merge.json").read_text())
    assert set(report["kept"]) == {"b", "c"} and report["method"] == "greedy_soup"
    assert "left out" in told and not any(place.exists() for place in places)


def test_what_cannot_be_evaluated_is_refused(models):
    for settings, says in (
        ({}, "merge.evaluate belongs"),
        ({"evaluate": ["suites=[format]"], "weights": [1.0, 2.0]}, "given weights"),
        ({"evaluate": ["run.name=x"]}, "set for each candidate"),
        ({"evaluate": ["suites=[nothing]"]}, "nothing"),
    ):
        with pytest.raises(UserError, match=says):
            cfg = config("a", "b", **settings)
            check_merge(cfg)
            prepare_soup(cfg)
    with pytest.raises(UserError, match="belongs to"):
        check_merge(MergeConfig(merge=MergeSettings(
            method="linear", models=["a", "b"], evaluate=["suites=[format]"]
        )))  # fmt: skip


def test_the_command_composes_the_evaluation_inside_its_own_composition(models, capsys):
    words = ["merge.method=greedy_soup", "merge.models=[a,b]"]
    told = {
        'merge.evaluate=["suites=[nothing]"]': "nothing",
        'merge.evaluate=["trainer.lr=1"]': "merge.evaluate: trainer.lr",
    }
    for option, says in told.items():
        assert main(["merge", *words, option]) == 2
        assert says in " ".join(capsys.readouterr().err.split())
    assert not Path("runs").exists()
