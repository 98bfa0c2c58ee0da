"""verl's layout: the nested answer becomes a column, the rest stays."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from rlpost.data.rows import Row, flatten_verl
from rlpost.data.sources.load import load_rows
from rlpost.errors import DataError

VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "1 + 1?"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"split": "train", "index": 0},
}


def test_verl_parquet_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "verl.parquet"
    parquet.write_table(pa.Table.from_pylist([VERL]), path)
    (row,) = load_rows(str(path))
    assert isinstance(row, Row)
    assert row.columns == {**VERL, "ground_truth": "2"}


@pytest.mark.parametrize("columns", [{}, {"reward_model": "name"}, {"reward_model": {"style": 1}}])
def test_other_rows_pass_unchanged(columns: dict) -> None:
    row = Row(columns=columns, address="a:1")
    assert flatten_verl(row) is row


def test_two_answers_must_agree(tmp_path: Path) -> None:
    agreed = Row(columns={**VERL, "ground_truth": "2"}, address="a:1")
    assert flatten_verl(agreed).columns["ground_truth"] == "2"
    path = tmp_path / "a.jsonl"
    path.write_text('{"ground_truth": "3", "reward_model": {"ground_truth": "2"}}\n')
    (error,) = load_rows(str(path))
    assert isinstance(error, DataError)
    assert str(error).startswith(f"{path}:1: columns 'ground_truth' and")
