"""All rows of a source are read in one format, with its columns under the names it has."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlpost.data.formats.reader import RecordReader
from rlpost.data.records import Completion, Document, Pair, Record
from rlpost.data.rows import Row
from rlpost.data.sources.load import load_rows
from rlpost.errors import DataError, UserError

KINDS: Any = (Completion, Document)


def rows(*columns: dict[str, Any]) -> list[Row]:
    return [Row(columns=each, address=f"t:{i}") for i, each in enumerate(columns, start=1)]


def test_the_first_clear_row_settles_the_format() -> None:
    unclear, text, pair = rows({"question": 1}, {"text": "a"}, {"prompt": "a", "completion": "b"})
    reader = RecordReader(accepts=KINDS).settled([DataError("t:0: bad"), unclear, text, pair])
    assert (reader.format, reader.first) == ("text", "t:2")
    assert isinstance(reader.read(text), Document)
    with pytest.raises(DataError, match=r"^t:3: .* format prompt_completion .*but t:2 is in text"):
        reader.read(pair)


def test_a_row_of_a_columnar_file_with_nulls_has_its_own_format() -> None:
    """The union of two formats' columns does not hide that rows differ."""
    one, two = rows(
        {"text": "a", "prompt": None, "completion": None},
        {"text": None, "prompt": "a", "completion": "b"},
    )
    reader = RecordReader(accepts=KINDS).settled([one, two])
    with pytest.raises(DataError, match=r"t:2: .* but t:1"):
        reader.read(two)


def test_a_chosen_format_decides_between_several() -> None:
    (row,) = rows({"text": "a", "prompt": "b", "completion": "c", "label": 0})
    for name, kind in (("text", Document), ("prompt_completion", Completion)):
        reader = RecordReader(accepts=KINDS, format=name).settled([row])
        assert isinstance(reader.read(row), kind)
    with pytest.raises(DataError, match=r"data\.format=text needs the column 'text', but the row"):
        RecordReader(accepts=KINDS, format="text").read(rows({"body": "a"})[0])


@pytest.mark.parametrize("name", ["pair", "nothing"])
def test_a_format_that_is_not_wanted(name: str) -> None:
    reader = RecordReader(accepts=KINDS, format=name, option="data.sources.a")
    with pytest.raises(UserError, match=r"data\.sources\.a\.format must be one of prompt_comple"):
        reader.check()


@pytest.mark.parametrize(
    ("format", "name", "said"),
    [
        (
            None,
            "complation",
            r"data\.columns\.complation .*\(did you mean completion\?\); there",
        ),
        (None, "x", r"data\.columns\.x is no column of a format here; there are prompt, comple"),
        ("text", "prompt", r"data\.columns\.prompt is no column of text; there are text, and each"),
    ],
)
def test_a_column_that_no_format_has_is_a_wrong_option(
    format: str | None, name: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        RecordReader(accepts=KINDS, format=format, columns={name: "answer"}).check()
    for known in ("prompt", "system", "tools", "text"):
        RecordReader(accepts=KINDS, columns={known: "answer"}).check()


def renamed(columns: dict[str, Any], **names: str) -> Record:
    (row,) = rows(columns)
    return RecordReader(accepts=KINDS, columns=names).settled([row]).read(row)


def test_columns_have_other_names() -> None:
    asked = {"question": "2 + 2?", "answer": "4", "id": 1}
    assert renamed(asked, prompt="question", completion="answer") == Completion(
        prompt="2 + 2?", completion="4", columns={"id": 1}, address="t:1"
    )
    with pytest.raises(DataError, match=r"no column 'reply', which data\.columns names; the row"):
        RecordReader(accepts=KINDS, columns={"completion": "reply"}).read(rows(asked)[0])


def test_verls_rows_hold_the_answer_in_an_object(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    row = {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"answer": "2 + 2 = 4 #### 4"},
    }
    path.write_text(json.dumps(row))
    (found,) = load_rows(str(path))
    assert isinstance(found, Row)
    with pytest.raises(DataError, match=r"fit no format; .* data\.columns\.completion=NAME"):
        RecordReader(accepts=KINDS).read(found)
    for place, answer in (("extra_info.answer", "2 + 2 = 4 #### 4"), ("ground_truth", "4")):
        record = RecordReader(accepts=KINDS, columns={"completion": place}).read(found)
        assert isinstance(record, Completion) and record.completion == answer
        assert record.columns["data_source"] == "openai/gsm8k"


def test_the_column_that_a_way_out_names_is_one_of_a_format_that_is_wanted() -> None:
    row = Row(columns={"prompt": "2 + 2?", "answers": ["4", "5"]}, address="ranked.jsonl:1")
    with pytest.raises(DataError, match=r"for example data\.columns\.rejected=NAME$"):
        RecordReader(accepts=(Pair,)).read(row)
