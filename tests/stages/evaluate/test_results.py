"""Results are made of the rows of the answers file, and shown without loss."""

import pytest
from stages.evaluate.rows import group

from rlpost.config.compose import compose_stage
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.page import write_page
from rlpost.stages.evaluate.plan import prepare
from rlpost.stages.evaluate.results import order_of, results_of
from rlpost.stages.evaluate.table import as_text, grids_of
from rlpost.stages.run_directory import RunDirectory


@pytest.fixture
def plan(tiny_model, tmp_path):
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "What is 2 + 2?", "answer": "4"}\n' * 4)
    cfg, _ = compose_stage(
        [
            f"model.path={tiny_model}",
            f"baseline.path={tiny_model}",
            f"data.heldout={data}",
            "verifier=math",
            "samples=2",
            "temperature=1",
            "k=[2]",
            "max_tokens=8",
        ],
        stage="evaluate",
    )
    return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))


@pytest.fixture
def file(tmp_path):
    file = AnswersFile(tmp_path / "evaluation.jsonl", samples=2)
    file.add(group("0:2", 1.0, 1.0, part="b"))
    file.add(group("0:0", 1.0, 0.0, part="a"))
    file.add(group("0:1", 0.0, None, part="a", error="timeout"))
    for uid in ("0:0", "0:1", "0:2", "0:3"):
        file.add(group(uid, 0.0, 0.0, model="baseline", part="a"))
    return file


def test_scores_by_model_data_set_and_part(plan, file):
    results = results_of(plan, file)
    found = {(each.model, each.part): each.sheet for each in results.scores}
    assert list(found) == [("model", ""), ("model", "a"), ("model", "b"), ("baseline", "")]
    assert found["model", ""].mean.mean == pytest.approx(3 / 5)
    assert found["model", ""].num_missing == 3  # one verdict, and an item without answers
    assert found["model", "a"].mean.mean == pytest.approx(1 / 3)
    assert found["model", "b"].at["pass@2"].mean == 1.0


def test_the_difference_is_of_pairs_that_are_known(plan, file):
    difference = results_of(plan, file).differences["d"]
    assert difference.difference == pytest.approx(3 / 5)
    assert (difference.num_items, difference.num_pairs, difference.num_unknown) == (3, 5, 3)


def test_metrics_of_both_models_have_names_of_their_own(plan, file):
    metrics = results_of(plan, file).metrics()
    assert metrics["val-core/d/acc/mean@2"] == pytest.approx(3 / 5)
    assert metrics["baseline/val-core/d/acc/mean@2"] == 0.0
    assert metrics["val-aux/d/b/acc/mean@2"] == 1.0
    assert metrics["val-core/d/difference/mean"] == pytest.approx(3 / 5)
    assert metrics["val-core/d/acc/maj@2"] == metrics["val-core/d/acc/maj@2"]


def test_the_order_of_answering_changes_nothing(plan, file, tmp_path):
    other = AnswersFile(tmp_path / "other.jsonl", samples=2)
    for answers in reversed(file.items.values()):
        other.add(answers)
    assert results_of(plan, other) == results_of(plan, file)
    for each in (file, other):
        each.put_in_order(order_of(plan))
    assert file.path.read_bytes() == other.path.read_bytes()


def test_the_table_has_every_score_on_one_line(plan, file):
    text = as_text(grids_of(results_of(plan, file)))
    assert "0.600  [" in text and "+0.600  [" in text
    line, _ = [line for line in text.splitlines() if line.split()[:2] == ["baseline", "d"]]
    assert "0.000" in line  # the second one is of difficulty


def test_the_page_holds_answers_and_loads_nothing(plan, file, tmp_path):
    directory = RunDirectory(root=tmp_path)
    directory.config.write_text("seed: 0\n")
    write_page(directory, results=results_of(plan, file), file=file, config=plan.cfg)
    page = directory.report.read_text()
    assert "default-src 'none'" in page and "src=" not in page and "<b>4</b>" not in page
    assert "+0.600" in page and "\\u003cb\\u003e4" in page
