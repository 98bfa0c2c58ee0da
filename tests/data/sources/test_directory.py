"""Directories: which files are data, of which split, and what does not belong there."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from pyarrow import Table, parquet

from rlpost.data.rows import Row, Split
from rlpost.data.sources.load import find_rows, find_source, load_rows
from rlpost.errors import DataError, UserError


def make(folder: Path, **files: Any) -> str:
    """Write one row of text, that of the value, into each file."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"text": text}]
        if name.endswith(".parquet"):
            parquet.write_table(Table.from_pylist(rows), path)
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(json.dumps(rows[0]).encode()))
        else:
            path.write_text(json.dumps(rows[0]))
    return str(folder)


def texts(name: str, split: Split = Split.TRAIN) -> list[str]:
    return [r.columns["text"] for r in load_rows(name, split=split) if isinstance(r, Row)]


def test_all_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    name = make(tmp_path, **{"b.jsonl": "2", "a.jsonl.gz": "1", "sub/c.jsonl": "3"})
    assert texts(name) == ["1", "2", "3"]
    assert [row.address for row in load_rows(name) if isinstance(row, Row)] == [
        f"{name}/a.jsonl.gz:1", f"{name}/b.jsonl:1", f"{name}/sub/c.jsonl:1",
    ]  # fmt: skip


def test_a_snapshot_of_a_hub_repository(tmp_path: Path) -> None:
    blob = make(tmp_path / "blobs", **{"1.parquet": "train 0"})
    snapshot = tmp_path / "snapshots" / "0a1b"
    name = make(snapshot, **{"data/train-00001-of-00002.parquet": "train 1",
                             "data/test-00000-of-00001.parquet": "test"})  # fmt: skip
    (snapshot / "data/train-00000-of-00002.parquet").symlink_to(Path(blob, "1.parquet"))
    for other in ("README.md", ".gitattributes", "LICENSE", "dataset_infos.json"):
        (snapshot / other).write_text("{}")
    (snapshot / ".cache").mkdir()
    (snapshot / ".cache/x.bin").touch()
    assert texts(name) == ["train 0", "train 1"]
    assert texts(name, Split.HELDOUT) == ["test"]


def test_folders_name_splits_too(tmp_path: Path) -> None:
    name = make(tmp_path, **{"train/a.jsonl": "1", "validation/a.jsonl": "2"})
    assert texts(name) == ["1"] and texts(name, Split.HELDOUT) == ["2"]


def test_a_directory_of_one_split_is_used_for_either(tmp_path: Path) -> None:
    name = make(tmp_path, **{"train-0.jsonl": "1", "train-1.jsonl": "2"})
    assert texts(name, Split.HELDOUT) == ["1", "2"]


@pytest.mark.parametrize(
    ("files", "kind", "rule"),
    [
        ({}, UserError, r"^data\.train: the directory .* has no file that ends in \.jsonl"),
        ({"README.md": ""}, UserError, "has no file that ends in"),
        ({"a.jsonl": "1", "b.csv": "2"}, DataError, r"/b\.csv: a directory of data holds only"),
        ({"a.jsonl": "1", "b.parquet": "2"}, DataError, r"/b\.parquet: .* kind than .*a\.jsonl"),
        ({"train.jsonl": "1", "more.jsonl": "2"}, DataError, r"/more\.jsonl: other files here are"),
        ({"dev.jsonl": "1", "test.jsonl": "2"}, UserError, "has the splits dev, test, none of wh"),
    ],
)
def test_what_does_not_belong_is_refused(
    tmp_path: Path, files: dict[str, str], kind: type[Exception], rule: str
) -> None:
    with pytest.raises(kind, match=rule):
        load_rows(make(tmp_path, **files))


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    name = make(tmp_path, **{"a.jsonl": "1"})
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"b\.jsonl"):
        list(load_rows(name))


def test_a_bad_row_has_the_address_of_its_file(tmp_path: Path) -> None:
    name = make(tmp_path, **{"a.jsonl": "1"})
    (tmp_path / "b.jsonl").write_text("\n{")
    _, bad = load_rows(name)
    assert isinstance(bad, DataError) and str(bad).startswith(f"{name}/b.jsonl:2: column 2:")


def test_what_datasets_saved(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list([{"text": str(i)} for i in range(3000)])
    table.save_to_disk(str(tmp_path / "one"))
    assert texts(str(tmp_path / "one")) == [str(i) for i in range(3000)]
    assert next(load_rows(str(tmp_path / "one"))).address == f"{tmp_path}/one[0]"  # type: ignore[union-attr]
    parts = {"train": table.select(range(3)), "test": table.select(range(1))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "two"))
    assert len(texts(str(tmp_path / "two"))) == 3
    assert len(texts(str(tmp_path / "two"), Split.HELDOUT)) == 1
    datasets.DatasetDict(a=table, b=table).save_to_disk(str(tmp_path / "three"))
    with pytest.raises(UserError, match="has the splits a, b, none of which is 'train'"):
        load_rows(str(tmp_path / "three"))
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="one: the saved dataset cannot be loaded"):
        load_rows(str(tmp_path / "one"))


def test_identity_is_that_of_names_and_content_not_of_the_place(tmp_path: Path) -> None:
    def identity(folder: str, **files: str) -> str:
        return find_rows(make(tmp_path / folder, **files)).identity()

    same = identity("one", **{"a.jsonl": "1", "b.jsonl": "2"})
    assert identity("two", **{"a.jsonl": "1", "b.jsonl": "2"}) == same
    assert identity("three", **{"a.jsonl": "1", "c.jsonl": "2"}) != same
    assert identity("four", **{"a.jsonl": "1", "b.jsonl": "3"}) != same


def test_a_directory_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_source("data/sft", field="f")[0].scheme == "hub"
    make(tmp_path / "data" / "sft", **{"a.jsonl": "1"})
    assert find_source("data/sft", field="f")[0].scheme == "file"
    assert find_source("hub:data/sft", field="f")[0].scheme == "hub"
