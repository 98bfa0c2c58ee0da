"""Who exists for suites during training, what is refused, and when they are scored."""

from types import SimpleNamespace

import pytest
from supervised_runs import write_rows

from rlpost.config.compose import compose_stage
from rlpost.errors import UserError
from rlpost.stages.estimate import add_up
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.suites import SuiteScores
from rlpost.stages.supervised.sft import prepare

SUITES = ("evaluation.suites=[general,format]", "evaluation.max_tokens=16")


@pytest.fixture
def planned(tmp_path, tiny_model):
    rows = [{"prompt": f"{n}?", "completion": f"{n}"} for n in range(3)]
    train = write_rows(tmp_path / "train.jsonl", rows)

    def plan(*overrides):
        given = [f"model.path={tiny_model}", f"data.train={train}", "data.workers=0", *overrides]
        cfg, _ = compose_stage(given, stage="sft")
        return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))

    return plan


def test_suites_bring_generators_and_a_judge_for_each(planned):
    plan = planned(*SUITES, "evaluation.suite_size=6", "generator.num=1")
    assert [role.name for role in plan.roles] == [
        "trainer", "generators", "verifiers of general", "verifiers of format",
    ]  # fmt: skip
    sizes = {name: len(rows) for name, rows in plan.suites.prompts.items()}
    assert sizes == {"general": 6, "format": 6}
    estimate = add_up(plan, gpu_bytes=None)
    assert any(each.process.startswith("generator 0") for each in estimate.footprints)
    judges = [each.process for each in estimate.unplaced if each.process != "driver"]
    assert judges == ["verifiers of general", "verifiers of format"]


def test_without_suites_nothing_of_it_exists(planned):
    plan = planned()
    assert [role.name for role in plan.roles] == ["trainer"]
    assert plan.suites is None
    assert plan.roles[0].spawn.keywords["make_sender"] is None


def test_the_best_checkpoint_may_be_that_of_a_suite(planned):
    planned(*SUITES, "checkpoint.best_metric=val-core/format/acc/mean@1")
    with pytest.raises(UserError, match=r"no evaluation measures .*val-core/general/acc/mean@1"):
        planned(*SUITES, "checkpoint.best_metric=val-core/general/acc/mean@4")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluation.max_tokens=512"], "evaluation.max_tokens must leave room for a prompt"),
        (["evaluation.max_tokens=500"], r"leaves 12 tokens .*; lower evaluation.max_tokens"),
        (["evaluation.suite_every=100"], "set evaluation.every=100"),
        (["generator.max_model_len=100000"], "generator.max_model_len must be at most"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_anything_starts(planned, overrides, words):
    with pytest.raises(UserError, match=words):
        planned(*SUITES, *overrides)


def test_they_are_scored_before_every_so_often_and_after():
    run = SimpleNamespace(cfg=SimpleNamespace(trainer=SimpleNamespace(steps=25)))
    scores = SuiteScores(run=run, bus=None, examiners={}, prompts={}, every=20)
    assert [step for step in range(0, 26, 5) if scores.due(step)] == [0, 20, 25]
    assert SuiteScores(run=run, bus=None, examiners={}, prompts={}).due(5)
