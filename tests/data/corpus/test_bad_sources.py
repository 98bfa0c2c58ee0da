"""Every kind of bad data that the project knows is refused by a corpus, too, with its place."""

from pathlib import Path

import pytest
from bad_data import BadFile, bad_files, bad_rows
from byte_encoder import ByteEncoder

from rlpost.data.bad_rows import OnBadRow
from rlpost.data.corpus.corpus import Corpus, CorpusRules, load_corpus
from rlpost.data.formats.reader import RecordReader
from rlpost.data.records import Completion
from rlpost.data.sources.load import find_rows
from rlpost.errors import DataError

# A column of numbers is no text in any row.
NUMBERS = {f"{file}-answer_nan" for file in ("train.parquet", "stream.arrow", "file.arrow")}
ROWS = [case for case in bad_rows() if case.name not in NUMBERS]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(path: Path, on_bad_row: OnBadRow) -> Corpus:
    encoder = ByteEncoder(accepts=(Completion,))
    return load_corpus(
        find_rows(str(path)),
        name="bad",
        reader=RecordReader(accepts=encoder.accepts, columns={"completion": "answer"}),
        encoder=encoder,
        rules=CorpusRules(on_bad_row=on_bad_row),
        workers=0,
    )


@pytest.mark.parametrize("case", list(bad_files()), ids=lambda case: case.name)
def test_a_bad_file_is_named_and_nothing_is_kept(
    tmp_path: Path, cache: Path, case: BadFile
) -> None:
    path = tmp_path / case.file
    case.write(path)
    for on_bad_row in OnBadRow:
        if on_bad_row is OnBadRow.skip and case.place != ": ":
            continue  # its rows are bad one by one
        with pytest.raises(DataError) as caught:
            load(path, on_bad_row)
        said = str(caught.value)
        assert said.startswith(f"{path}{case.place}") and said.isprintable(), said
    assert not list((cache / "corpora").glob("[!.]*/ids_T")) or "no usable row" in said


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
def test_a_bad_row_costs_itself_only(tmp_path: Path, case: BadFile) -> None:
    path = tmp_path / case.file
    case.write(path)
    corpus = load(path, OnBadRow.skip)
    others = [":1", ":3"] if case.place == ":2: " else ["[0]", "[2]"]
    found = [corpus.examples(row)[0].address.removeprefix(str(path)) for row in range(len(corpus))]
    assert set(others) <= set(found), found
    for said in corpus.skipped:
        assert said.startswith(f"{path}{case.place}") and said.isprintable(), said
        assert len(said) < 1000 + len(str(path))
    if len(found) == 2:
        with pytest.raises(DataError) as caught:
            load(path, OnBadRow.error)
        assert str(caught.value) == corpus.skipped[0]
