"""What files and machine cannot do is refused before anything is written."""

import json

import pytest

from rlpost.config.compose import compose_stage
from rlpost.errors import DataError, UserError
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.job import open_items
from rlpost.stages.evaluate.plan import prepare
from rlpost.stages.run_directory import RunDirectory


@pytest.fixture
def plan(tmp_path, tiny_model):
    def make(*overrides):
        cfg, _ = compose_stage(
            [f"model.path={tiny_model}", "max_tokens=8", *overrides], stage="evaluate"
        )
        return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))

    return make


@pytest.fixture
def rows(tmp_path):
    def write(*rows, name="own.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return f"data.heldout={path}"

    return write


SUM = {"prompt": "What is 1 + 1?", "answer": "2"}


def test_every_item_of_every_source_is_to_be_answered(plan, rows, tmp_path):
    made = plan("suites=[general]", rows(SUM, SUM), "verifier=math", "data.heldout_size=1")
    assert [each.name for each in made.sources] == ["general", "own"]
    file = AnswersFile(tmp_path / "none.jsonl", samples=1)
    waiting = {key: len(prompts) for key, prompts in open_items(made, file).items()}
    assert waiting == {("model", "general"): 238, ("model", "own"): 1}


def test_a_baseline_answers_the_same_items(plan, tiny_untied_model, tmp_path):
    made = plan("suites=[format]", f"baseline.path={tiny_untied_model}")
    assert [each.role for each in made.examinees] == ["model", "baseline"]
    file = AnswersFile(tmp_path / "none.jsonl", samples=1)
    model, baseline = open_items(made, file).values()
    assert [each.uid for each in model] == [each.uid for each in baseline]


@pytest.mark.parametrize("field", ["model.path", "baseline.path"])
def test_a_classifier_is_no_policy(plan, tiny_reward, field):
    with pytest.raises(UserError, match=f"{field}: .* is a classifier or reward model"):
        plan(f"{field}={tiny_reward}")


def test_responses_must_fit_behind_a_prompt(plan):
    with pytest.raises(UserError, match="max_tokens must leave room for a prompt"):
        plan("max_tokens=100000")


def test_rows_that_nobody_can_judge_are_refused(plan, rows):
    with pytest.raises(DataError, match=r"own.jsonl:2: .*'answer'"):
        plan(rows(SUM, {"prompt": "What is 1 + 1?"}), "verifier=math")
    kept = plan(rows(SUM, {"prompt": "?"}), "verifier=math", "data.on_bad_row=skip")
    assert len(kept.examinees[0].prompts["own"]) == 1


def test_a_file_must_not_be_called_like_a_suite(plan, rows):
    with pytest.raises(UserError, match="would have the name of the suite format"):
        plan(rows(SUM, name="format.jsonl"), "verifier=math", "suites=[format]")
