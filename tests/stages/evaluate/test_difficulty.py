"""Items of a difficulty that are kept as a data set, and who may learn from them."""

import json

import pytest
from stages.evaluate.rows import group

from rlpost.config.compose import compose_stage
from rlpost.errors import UserError
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.difficulty import write_items
from rlpost.stages.evaluate.page import write_page
from rlpost.stages.evaluate.plan import prepare
from rlpost.stages.evaluate.results import results_of
from rlpost.stages.evaluate.table import as_text, grids_of
from rlpost.stages.rl.plan import prepare as prepare_rl
from rlpost.stages.run_directory import RunDirectory


@pytest.fixture
def plan(tiny_model, tmp_path):
    rows = [{"prompt": f"What is 2 + {n}?", "answer": str(2 + n)} for n in range(4)]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(*overrides):
        given = [f"model.path={tiny_model}", f"data.heldout={data}", "verifier=math", "samples=4",
                 "temperature=1", "max_tokens=8", "data.system_prompt=Add."]  # fmt: skip
        cfg, _ = compose_stage([*given, *overrides], stage="evaluate")
        return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))

    return make


@pytest.fixture
def file(tmp_path):
    file = AnswersFile(tmp_path / "evaluation.jsonl", samples=4)
    file.add(group("0:0", 1.0, 1.0, 1.0, 1.0))
    file.add(group("0:1", 1.0, 0.0, 0.0, 0.0))
    file.add(group("0:2", 0.0, None, 0.0, 0.0))
    return file  # 0:3 was not answered


def test_items_within_the_band_are_a_data_set_for_rl(plan, file, tmp_path, tiny_model):
    root = tmp_path / "run" / "dataset"
    band = plan("difficulty.min_pass_rate=0.1", "difficulty.max_pass_rate=0.9")
    said = write_items(root, band, file)
    kept = root / "items.jsonl"
    assert said == f"1 of 4 items are kept as a data set: data.train={kept}"
    assert [json.loads(line) for line in kept.read_text().splitlines()] == [
        {"prompt": "What is 2 + 1?", "answer": "3", "pass_rate": 0.25}
    ]
    write_items(root, plan("difficulty.max_pass_rate=0"), file)
    assert [json.loads(line)["answer"] for line in kept.read_text().splitlines()] == ["4"]
    cfg, _ = compose_stage(
        [f"model.path={tiny_model}", f"data.train={kept}", "verifier=math", "rollout.max_tokens=8"],
        stage="rl",
    )
    read = prepare_rl(cfg, directory=RunDirectory(root=tmp_path / "rl")).sampling
    assert read.train_set.prompt(0, 0).columns["answer"] == "4"


def test_the_histogram_is_printed_and_on_the_page(plan, file, tmp_path):
    made = plan()
    results = results_of(made, file)
    text = as_text(grids_of(results))
    (row,) = [line.split() for line in text.splitlines() if line.split()[:2] == ["model", "d"]][1:]
    assert row == ["model", "d", "1", "0", "1", "0", "0", "0", "1"]
    directory = RunDirectory(root=tmp_path / "run")
    directory.root.mkdir()
    directory.config.write_text("samples: 4\n")
    write_page(directory, results=results, file=file, config=made.cfg)
    page = directory.report.read_text()
    assert '"difficulty": "20%-40%"' in page.replace('":"', '": "') and "figcaption" in page


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["suites=[general]"], "would teach what is measured with"),
        (["baseline.path=smollm2-135m-instruct"], "leave baseline.path out"),
        (["samples=1", "temperature=0"], "several responses per item"),
        (["difficulty.min_pass_rate=0.9", "difficulty.max_pass_rate=0.1"], "so no item is kept"),
    ],
)
def test_items_that_cannot_be_chosen_are_refused(plan, overrides, said):
    with pytest.raises(UserError, match=said):
        plan("difficulty.max_pass_rate=0.5", *overrides)
