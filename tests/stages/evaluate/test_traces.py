"""Answers that are kept as a data set, and who may learn from them."""

import json
from dataclasses import replace

import pytest
from stages.evaluate.rows import answer, group

from rlpost.config.compose import compose_stage
from rlpost.errors import UserError
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.plan import prepare
from rlpost.stages.evaluate.traces import write_traces
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.supervised.sft import prepare as prepare_sft


@pytest.fixture
def plan(tiny_model, tmp_path):
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "What is 2 + 2?", "answer": "4"}\n' * 3)

    def make(*overrides):
        given = [f"model.path={tiny_model}", f"data.heldout={data}", "verifier=math", "samples=3",
                 "temperature=1", "max_tokens=8", "data.system_prompt=Add."]  # fmt: skip
        cfg, _ = compose_stage([*given, *overrides], stage="evaluate")
        return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))

    return make


def test_whole_answers_that_the_rule_keeps_are_a_data_set(plan, tmp_path, tiny_model):
    file = AnswersFile(tmp_path / "evaluation.jsonl", samples=3)
    right = [replace(each, response=f"It is {4 - each.sample}.") for each in group("0:0", 1, 0, 1)]
    file.add(right)
    cut = replace(answer("0:1", 0, 1.0), finish_reason="length")
    blank = replace(answer("0:1", 2, 1.0), response=" \n")  # which no reader of rows would take
    file.add([cut, answer("0:1", 1, None, error="timeout"), blank])
    root = tmp_path / "run" / "dataset"
    made = plan("selection.min_reward=1")
    said = write_traces(root, made, file)
    assert said.startswith("2 answers") and f"data.train={root / 'kept.jsonl'}" in said
    rows = [json.loads(line) for line in (root / "kept.jsonl").read_text().splitlines()]
    assert [row["completion"][0]["content"] for row in rows] == ["It is 4.", "It is 2."]
    assert [turn["role"] for turn in rows[0]["prompt"]] == ["system", "user"]
    source = rows[0]["provenance"]
    assert source["source"].endswith("d.jsonl:1") and source["model"] == str(tiny_model)
    assert (source["seed"], source["reward"], source["verdicts"]) == (7, 1, {"math": 1})
    write_traces(root, plan("selection.min_reward=1", "selection.best=1"), file)
    assert len((root / "kept.jsonl").read_text().splitlines()) == 1
    # Whoever learns from it gets the prompt that was answered.
    cfg, _ = compose_stage(
        [f"model.path={tiny_model}", f"data.train={root / 'kept.jsonl'}", "data.workers=0"],
        stage="sft",
    )
    learned = prepare_sft(cfg, directory=RunDirectory(root=tmp_path / "sft"))
    (example,) = learned.splits.train.corpora["kept"].examples(0)
    prompt = made.examinees[0].prompts["d"].prompt(0, 0).token_ids
    assert tuple(example.ids[: len(prompt)].tolist()) == prompt
    assert not example.trained[: len(prompt)].any()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["suites=[general]"], "would teach what is measured with"),
        (["baseline.path=smollm2-135m-instruct"], "leave baseline.path out"),
        (["selection.drop_solved=true", "selection.min_reward=null"], "needs selection.min_reward"),
    ],
)
def test_what_nobody_should_learn_from_is_refused(plan, overrides, said):
    with pytest.raises(UserError, match=said):
        plan("selection.min_reward=1", *overrides)
