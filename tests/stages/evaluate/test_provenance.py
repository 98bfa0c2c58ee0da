"""Answers of other weights, other rows or another judge are never scored as those of now."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from stages.evaluate.rows import group

from rlpost.config.compose import compose_stage
from rlpost.errors import UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.plan import prepare
from rlpost.stages.evaluate.provenance import require_same_provenance, write_provenance
from rlpost.stages.run_directory import RunDirectory

ROWS = [{"prompt": "What is 1 + 1?", "answer": "2"}, {"prompt": "What is 1 + 2?", "answer": "3"}]


@pytest.fixture
def plan(tmp_path):
    def make(*, seed=0, rows=ROWS):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        build_tiny_llama(tmp_path / "model", seed=seed)
        (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = [f"model.path={tmp_path}/model", f"data.heldout={tmp_path}/own.jsonl"]
        cfg, _ = compose_stage([*words, "verifier=math", "max_tokens=8"], stage="evaluate")
        return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))

    return make


@pytest.fixture
def answered(tmp_path, plan):
    """A run with an answer to its first row."""
    place, made = tmp_path / "provenance.json", plan()
    file = AnswersFile(tmp_path / "evaluation.jsonl", samples=1)
    write_provenance(place, made, file)
    file.add(group("0:0", 1.0, dataset="own"))
    return place, file


def test_what_is_the_same_goes_on_and_so_does_a_file_that_grew(answered, plan):
    place, file = answered
    require_same_provenance(place, plan(), file)
    require_same_provenance(place, plan(rows=[*ROWS, {**ROWS[0], "prompt": "1 + 1"}]), file)
    # Nobody has answered the second row, so it may change.
    require_same_provenance(place, plan(rows=[ROWS[0], {**ROWS[1], "answer": "4"}]), file)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 1}, r"holds answers of other weights than .*/model has now"),
        ({"rows": [{**ROWS[0], "answer": "3"}]}, "item 0:0 of own that was judged by other"),
    ],
)
def test_what_changed_is_refused(answered, plan, changed, said):
    place, file = answered
    with pytest.raises(UserError, match=said):
        require_same_provenance(place, plan(**changed), file)


def test_a_function_that_changed_is_another_judge(answered, plan, tmp_path):
    _, file = answered
    place, rewards = tmp_path / "judged.json", tmp_path / "rewards.py"

    def judged():
        made = plan()
        judge = SimpleNamespace(path=f"{rewards}:correct")
        source = replace(made.sources[0], verifiers={"function": judge})
        return replace(made, sources=(source,))

    rewards.write_text("def correct(): return 1")
    write_provenance(place, judged(), AnswersFile(tmp_path / "none.jsonl", samples=1))
    require_same_provenance(place, judged(), file)
    rewards.write_text("def correct(): return 0")
    with pytest.raises(UserError, match=r"judged by another file than verifier\.path names now"):
        require_same_provenance(place, judged(), file)


def test_answers_of_which_nobody_knows_the_weights_get_no_record(answered, plan, tmp_path):
    _, file = answered
    older = tmp_path / "older.json"
    require_same_provenance(older, plan(seed=1), file)
    write_provenance(older, plan(seed=1), file)
    assert not older.exists()
