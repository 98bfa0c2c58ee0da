"""Files: what a row looks like, and the address of everything that is wrong."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from rlpost.data.rows import Row
from rlpost.data.sources.load import load_rows
from rlpost.errors import DataError, UserError

ROWS = [{"prompt": "1 + 1", "answer": "2"}, {"prompt": "2 + 2", "answer": "4"}]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def columns(name: str) -> list[dict]:
    found = list(load_rows(name))
    assert all(isinstance(row, Row) for row in found), found
    return [dict(row.columns) for row in found]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_jsonl_rows_have_line_addresses(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1]))
    first, second = load_rows(name)
    assert first == Row(columns=ROWS[0], address=f"{name}:1")
    assert second == Row(columns=ROWS[1], address=f"{name}:3")  # the blank line counts


def test_jsonl_with_byte_order_mark_and_windows_ends(tmp_path: Path) -> None:
    text = lines(ROWS).replace("\n", "\r\n")
    assert columns(write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + text.encode())) == ROWS


def test_json_is_an_array_or_lines(tmp_path: Path) -> None:
    array = write(tmp_path / "a.json", "\n " + json.dumps(ROWS, indent=2))
    assert columns(array) == ROWS
    assert next(load_rows(array)).address == f"{array}[0]"
    assert columns(write(tmp_path / "b.json", lines(ROWS))) == ROWS


@pytest.mark.parametrize("kind", ["parquet", "arrow stream", "arrow file"])
def test_columnar_round_trip(tmp_path: Path, kind: str) -> None:
    table = pa.Table.from_pylist(ROWS)
    path = tmp_path / f"a.{kind.split()[0]}"
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        writer = ipc.new_stream if kind == "arrow stream" else ipc.new_file
        with writer(str(path), table.schema) as sink:
            sink.write_table(table)
    assert columns(str(path)) == ROWS
    assert [row.address for row in load_rows(str(path))] == [f"{path}[0]", f"{path}[1]"]


def test_bad_lines_have_addresses_and_do_not_end_the_stream(tmp_path: Path) -> None:
    bad = ['{"prompt": "x"', '["x"]', '{"prompt": \xff}', "null", '{"prompt": "ok"}']
    name = write(tmp_path / "a.jsonl", "\n".join(bad).encode("latin-1"))
    found = list(load_rows(name))
    assert [type(item) for item in found] == [DataError] * 4 + [Row]
    assert str(found[0]).startswith(f"{name}:1: column 15: not valid JSON")
    assert str(found[1]) == (
        f'{name}:2: column 1: expected a JSON object such as {{"prompt": ...}}, got list'
    )
    assert str(found[2]).startswith(f"{name}:3: column 12: not UTF-8")
    assert "got NoneType" in str(found[3])


def test_bad_array_names_line_and_column(tmp_path: Path) -> None:
    name = write(tmp_path / "a.json", '[{"prompt": "x"},\n {"prompt": }]')
    with pytest.raises(DataError, match=r"a\.json:2: column 13: not valid JSON"):
        list(load_rows(name))


def test_array_element_that_is_no_object(tmp_path: Path) -> None:
    name = write(tmp_path / "a.json", '[{"prompt": "x"}, 3]')
    assert "a.json[1]: expected a JSON object" in str(list(load_rows(name))[1])


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_damaged_columnar_files(tmp_path: Path, suffix: str) -> None:
    name = write(tmp_path / f"a.{suffix}", "this is not columnar at all")
    with pytest.raises(DataError, match=f"a.{suffix}: not a readable"):
        list(load_rows(name))


def test_missing_files_say_where_they_were_sought(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.heldout: 'nope.jsonl' does not exist") as caught:
        load_rows("nope.jsonl", field="data.heldout")
    assert "give an existing file" in str(caught.value)
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(UserError, match=r"the directory .* has no file that ends in"):
        load_rows(str(tmp_path / "d.jsonl"))


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", "prompt\nx\n")
    with pytest.raises(UserError, match=r"must end in one of .jsonl, .json, .parquet, .arrow"):
        load_rows(name)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\x1f\x8b\x08\x00", "is compressed with gzip; let its name end in .gz"),
        (b"PAR1\x15\x04", "is a Parquet file; name it .parquet"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ('{"prompt": "x"}'.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(
    tmp_path: Path, start: bytes, what: str
) -> None:
    with pytest.raises(DataError, match=rf"a\.jsonl: the file .*{what}"):
        list(load_rows(write(tmp_path / "a.jsonl", start)))


def test_one_bad_element_costs_its_row_only(tmp_path: Path) -> None:
    deep = "[" * 3000 + "]" * 3000
    bad = ['{"prompt": "a", "prompt": "b"}', f'{{"x": {deep}}}', deep, '{"x": ' + "7" * 5000 + "}"]
    for name, text in (
        ("a.json", "[" + ", ".join([*bad, '{"prompt": "ok"}']) + "]"),
        ("a.jsonl", "\n".join([*bad, '{"prompt": "ok"}'])),
    ):
        *refused, last = load_rows(write(tmp_path / name, text))
        assert isinstance(last, Row) and last.columns == {"prompt": "ok"}
        rules = ["occurs twice", "more than 100 levels deep", "levels deep", "has 5000 digits"]
        for error, rule in zip(refused, rules, strict=True):
            assert isinstance(error, DataError) and rule in str(error)


@pytest.mark.parametrize("name", ["x" * 5000 + ".jsonl", "./a\0b.jsonl", "~nobody-here/a.jsonl"])
def test_names_that_no_disk_takes_do_not_exist(name: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_rows(name)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="is no regular file"):
        load_rows(str(tmp_path / "a.jsonl"))
