"""Evaluations on one page: scores, differences from the first, and all answers."""

from dataclasses import replace

import pytest
from stages.evaluate.rows import answer, group

from rlpost.cli.main import main
from rlpost.errors import UserError
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.side_by_side import write_side_by_side


def written(root, *items, **settings):
    root.mkdir()
    lines = {"samples": 2, "seed": 7, "k": "[2]", **settings}
    (root / "config.yaml").write_text("".join(f"{k}: {v}\n" for k, v in lines.items()))
    file = AnswersFile(root / "evaluation.jsonl", samples=lines["samples"])
    for each in items:
        file.add(each)
    return root


@pytest.fixture
def three(tmp_path):
    return [
        written(tmp_path / "first", group("0:0", 1, 0), group("0:1", 0, 0)),
        written(
            tmp_path / "second",
            *(group("0:0", 1, 1), group("0:1", 1, None)),
            *(group(uid, 0, 0, model="baseline") for uid in ("0:0", "0:1")),
        ),
        written(tmp_path / "third", group("0:0", 0, 0), max_tokens=9),  # an item is missing
    ]


def test_models_are_paired_with_the_first(three, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *map(str, three)]) == 0
    text = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in text.splitlines() if "minus first" in line]
    assert [row.split(" minus")[0] for row in rows] == ["d second", "d second baseline", "d third"]
    assert rows[0].startswith("d second minus first 2 +0.667")  # 0, 1 and 1 of three pairs
    assert rows[0].endswith(" 1") and rows[2].startswith("d third minus first 1 -0.500")
    page = (tmp_path / "compare.html").read_text()
    assert "They differ in max_tokens" in page and "default-src 'none'" in page
    assert "<b>4</b>" not in page and "\\u003cb\\u003e4" in page
    assert page.count('"item":') + page.count('"item" :') == 4  # two items, two samples
    for name in ("first", "second", "second baseline", "third"):
        assert f'<th scope="col">{name}</th>' in page


def test_evaluations_of_different_things_are_refused(three, tmp_path):
    other = [replace(answer("0:0", n), prompt="Another?") for n in range(2)]
    strange = written(tmp_path / "strange", other)
    with pytest.raises(UserError, match="asked different things as item 0:0 of d"):
        write_side_by_side(tmp_path / "page.html", [three[0], strange])
    more = written(tmp_path / "more", group("0:0", 1, 1, 1), samples=3)
    with pytest.raises(UserError, match="cannot be paired"):
        write_side_by_side(tmp_path / "page.html", [three[0], more])
    again = written(tmp_path / "x", group("0:0", 1, 1)).rename(three[0] / "first")
    with pytest.raises(UserError, match="two evaluations are called first"):
        write_side_by_side(tmp_path / "page.html", [three[0], again])
    assert not (tmp_path / "page.html").exists()
