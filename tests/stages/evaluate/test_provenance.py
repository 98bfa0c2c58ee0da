"""Answers of other weights, other rows or another judge are never scored as those of now."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from stages.evaluate.rows import group

from rlpost.config.compose import compose_stage
from rlpost.data.dataset import PromptDataset
from rlpost.errors import UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.plan import prepare
from rlpost.stages.evaluate.provenance import require_same_provenance, write_provenance
from rlpost.stages.run_directory import RunDirectory

ROWS = [{"prompt": "What is 1 + 1?", "answer": "2"}, {"prompt": "What is 1 + 2?", "answer": "3"}]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluation")
    build_tiny_llama(place / "model")
    (place / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = [f"model.path={place}/model", f"data.heldout={place}/own.jsonl", "max_tokens=8"]
    cfg, _ = compose_stage([*words, "verifier=math"], stage="evaluate")
    return prepare(cfg, directory=RunDirectory(root=place / "run"))


def of_model(plan, **changes):
    """Return the plan of an evaluation whose model is another one, or has other prompts."""
    return replace(plan, examinees=(replace(plan.examinees[0], **changes),))


def with_answers(plan, *golds):
    """Return the plan of an evaluation whose rows have these right answers; more rows are new."""
    known = plan.examinees[0].prompts["own"]
    prompts = [
        replace(known.prompt(0, n % len(known)), uid=f"0:{n}", columns={"answer": gold})
        for n, gold in enumerate(golds)
    ]
    return of_model(plan, prompts={"own": PromptDataset(prompts, name="own", skipped=[])})


@pytest.fixture
def answered(tmp_path, plan):
    """A run with an answer to its first row."""
    place = tmp_path / "provenance.json"
    file = AnswersFile(tmp_path / "evaluation.jsonl", samples=1)
    write_provenance(place, plan, file)
    file.add(group("0:0", 1.0, dataset="own"))
    return place, file


def test_what_is_the_same_goes_on_and_so_does_a_file_that_grew(answered, plan):
    place, file = answered
    require_same_provenance(place, plan, file)
    require_same_provenance(place, with_answers(plan, "2", "3", "2"), file)
    # Nobody has answered the second row, so it may change.
    require_same_provenance(place, with_answers(plan, "2", "4"), file)


def test_a_right_answer_that_was_corrected_is_refused(answered, plan):
    place, file = answered
    with pytest.raises(UserError, match="item 0:0 of own that was judged by other columns"):
        require_same_provenance(place, with_answers(plan, "4", "3"), file)


def test_other_weights_are_refused(answered, plan, tmp_path):
    place, file = answered
    for seed, name in enumerate(("same", "other")):
        build_tiny_llama(tmp_path / name, seed=seed)
    require_same_provenance(place, of_model(plan, path=str(tmp_path / "same")), file)
    with pytest.raises(UserError, match=r"answers of other weights than .*/other has now"):
        require_same_provenance(place, of_model(plan, path=str(tmp_path / "other")), file)


def test_a_function_that_changed_is_another_judge(answered, plan, tmp_path):
    _, file = answered
    place, rewards = tmp_path / "judged.json", tmp_path / "rewards.py"
    judge = SimpleNamespace(path=f"{rewards}:correct")
    judged = replace(plan, sources=(replace(plan.sources[0], verifiers={"function": judge}),))
    rewards.write_text("def correct(): return 1")
    write_provenance(place, judged, AnswersFile(tmp_path / "none.jsonl", samples=1))
    require_same_provenance(place, judged, file)
    rewards.write_text("def correct(): return 0")
    with pytest.raises(UserError, match=r"judged by another file than verifier\.path names now"):
        require_same_provenance(place, judged, file)


def test_answers_that_an_earlier_version_gave_get_no_record(answered, plan, tmp_path):
    _, file = answered
    require_same_provenance(tmp_path / "older.json", plan, file)
    write_provenance(tmp_path / "older.json", plan, file)
    assert not (tmp_path / "older.json").exists()
