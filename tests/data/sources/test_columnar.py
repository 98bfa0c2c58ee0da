"""Columnar files: rows as JSONL would give them, and one bad cell costs one row."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from rlpost.data.rows import Row
from rlpost.data.sources.columnar import without_missing
from rlpost.data.sources.load import load_rows
from rlpost.errors import DataError


def write(path: Path, table: pa.Table) -> str:
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        with ipc.new_stream(str(path), table.schema) as sink:
            sink.write_table(table)
    return str(path)


@pytest.fixture(params=["a.parquet", "a.arrow"])
def path(request: Any, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_fields_that_other_rows_have_are_left_out(path: Path) -> None:
    rows = [
        {"answer": "1", "info": {"a": 1}, "calls": [{"f": {"x": 1}}]},
        {"answer": None, "info": {"b": [None, 2]}, "calls": [{"g": "y"}]},
    ]
    table = pa.Table.from_pylist(rows)
    assert table.to_pylist()[0]["info"] == {"a": 1, "b": None}  # negative control
    found = list(load_rows(write(path, table)))
    assert [row.columns for row in found if isinstance(row, Row)] == rows


def test_a_column_of_its_own_stays_when_it_is_missing() -> None:
    assert without_missing({"a": None, "b": {"c": None}, "d": [None]}) == {
        "a": None,
        "b": {},
        "d": [None],
    }


def test_bad_text_costs_its_row(path: Path) -> None:
    raw = pa.array([b"first", b"\xff\xfe", b"last"], pa.binary())
    text = pa.Array.from_buffers(pa.utf8(), 3, raw.buffers())
    first, bad, last = load_rows(write(path, pa.table({"id": [1, 2, 3], "prompt": text})))
    assert first == Row(columns={"id": 1, "prompt": "first"}, address=f"{path}[0]")
    assert isinstance(bad, DataError)
    assert str(bad).startswith(f"{path}[1]: column 'prompt' cannot be decoded: ")
    assert last == Row(columns={"id": 3, "prompt": "last"}, address=f"{path}[2]")


def test_addresses_count_over_batches(path: Path) -> None:
    name = write(path, pa.table({"n": list(range(3000))}))
    found = list(load_rows(name))
    assert all(isinstance(row, Row) for row in found)
    assert [(row.columns["n"], row.address) for row in found if isinstance(row, Row)] == [
        (n, f"{name}[{n}]") for n in range(3000)
    ]


def test_values_have_their_stated_form(path: Path) -> None:
    table = pa.table(
        {
            "when": pa.array([datetime.datetime(2024, 2, 29, 1)], pa.timestamp("us")),
            "price": pa.array([1], pa.decimal128(5, 2)),
            "scores": pa.array([[("a", 1), ("b", 2)]], pa.map_(pa.string(), pa.int64())),
            "missing": pa.array([float("nan")]),
            "kind": pa.array(["x"]).dictionary_encode(),
        }
    )
    (row,) = load_rows(write(path, table))
    assert isinstance(row, Row), row
    assert row.columns == {
        "when": "2024-02-29T01:00:00",
        "price": "1.00",
        "scores": {"a": 1, "b": 2},
        "missing": None,
        "kind": "x",
    }


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([None, b"\x00"], pa.binary()), "got bytes; convert the column to text"),
        (pa.array([0, 5], pa.duration("s")), "got timedelta"),
        (pa.array([0, 2**60], pa.timestamp("ms")), "cannot be decoded"),
        (pa.array([0, 1], pa.timestamp("ns")), None),
        (pa.array([[], [("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int8())), "cannot be dec"),
        (pa.array([0.0, float("inf")]), "a number must be finite"),
    ],
)
def test_values_without_a_form_cost_their_row(
    path: Path, column: pa.Array, reason: str | None
) -> None:
    name = write(path, pa.table({"c": column, "prompt": ["a", "b"]}))
    _, second = load_rows(name)
    if reason is None:
        assert isinstance(second, Row), second
    else:
        assert isinstance(second, DataError)
        assert str(second).startswith(f"{path}[1]: column 'c'") and reason in str(second)


def test_columns_of_one_name_are_refused(path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    with pytest.raises(DataError, match="2 columns are called 'prompt'; rename all but one"):
        list(load_rows(write(path, table)))


@pytest.mark.parametrize("keep", [0, 4, 100, -30])
def test_a_file_that_was_cut_off(path: Path, keep: int) -> None:
    name = write(path, pa.table({"prompt": ["some text"] * 50}))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"not a readable (Parquet|Arrow) file: \w+: .*; write"):
        list(load_rows(name))


def test_a_cell_that_points_outside_of_its_data(tmp_path: Path) -> None:
    """Decoding it would read foreign memory."""
    path = tmp_path / "a.arrow"
    offsets = pa.array([0, 10_000_000, 2, 3], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.utf8(), 3, [None, offsets, pa.py_buffer(b"abc")])
    schema = pa.schema([("prompt", pa.utf8())])
    with ipc.new_stream(str(path), schema) as sink:
        sink.write_batch(pa.RecordBatch.from_arrays([text], schema=schema))
    with pytest.raises(DataError, match=r"a\.arrow: not a readable Arrow file: ArrowInvalid"):
        list(load_rows(str(path)))


def test_short_floats_are_the_decimals_that_were_written(path: Path) -> None:
    numbers = [0.1, 16777216.0, None, 2.5, -1e-7]
    table = pa.table({"answer": pa.array(numbers, pa.float32()), "prompt": ["a"] * 5})
    assert table.to_pylist()[0]["answer"] != 0.1  # negative control
    found = [row for row in load_rows(write(path, table)) if isinstance(row, Row)]
    assert [row.columns["answer"] for row in found] == numbers
