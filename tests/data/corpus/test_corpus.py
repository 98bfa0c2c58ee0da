"""A source is encoded once, into a cache that a change of anything makes another one."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from byte_encoder import ByteEncoder, StoppingEncoder, decoded

from rlpost.data.bad_rows import OnBadRow, OnLong
from rlpost.data.corpus.corpus import Corpus, CorpusRules, load_corpus
from rlpost.data.formats.reader import RecordReader
from rlpost.data.sources.load import find_rows
from rlpost.errors import DataError, InfrastructureError

GOOD = [{"prompt": f"{i} + {i} = ", "completion": str(2 * i)} for i in range(5)]
SKIP = CorpusRules(on_bad_row=OnBadRow.skip)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "corpora"


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path, *, encoder: Any = None, workers: int | None = 0, **options: Any) -> Corpus:
    encoder = encoder or ByteEncoder()
    reader = options.pop("reader", RecordReader(accepts=encoder.accepts))
    rules = options.pop("rules", None) or CorpusRules(**options)
    return load_corpus(
        find_rows(str(path)),
        name="sums",
        reader=reader,
        encoder=encoder,
        rules=rules,
        workers=workers,
    )


def texts(corpus: Corpus) -> list[list[str]]:
    return [[decoded(each) for each in corpus.examples(row)] for row in range(len(corpus))]


def test_rows_come_back_with_mask_and_address(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    corpus = load(path)
    assert texts(corpus) == [[row["prompt"] + row["completion"]] for row in GOOD]
    (example,) = corpus.examples(3, uid="sums:0:3")
    assert (example.address, example.uid) == (f"{path}:4", "sums:0:3")
    assert example.ids[example.trained].tolist() == [ord("6")]
    assert corpus.lengths_N.tolist() == [9, 9, 9, 9, 9]
    assert corpus.skipped == ()


def test_both_sides_of_a_pair_are_one_row(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "good", "rejected": "bad"}, {**GOOD[0]}]
    rows[1] = {"prompt": "b", "chosen": "x", "rejected": "yz"}
    corpus = load(write(tmp_path / "a.jsonl", rows))
    assert texts(corpus) == [["agood", "abad"], ["bx", "byz"]]
    assert corpus.lengths_N.tolist() == [9, 5]
    assert len({each.uid for each in corpus.examples(0, uid="u")}) == 1


class LabellingEncoder(ByteEncoder):
    """Says how many of a completion's bytes are digits, twice, and nothing of the rejected one."""

    def encode(self, record: Any) -> Any:
        first, *others = super().encode(record)
        count = sum(chr(byte).isdigit() for byte in first.ids[first.trained].tolist())
        return [replace(first, labels=np.array([count, -count], np.float32)), *others]


def test_labels_come_back_with_their_example(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "12", "rejected": "b"}, {"prompt": "a", "chosen": "c1",
             "rejected": "d"}, {"prompt": "e", "chosen": "f", "rejected": "8"}]  # fmt: skip
    corpus = load(write(tmp_path / "a.jsonl", rows), encoder=LabellingEncoder(fingerprint="l"))
    said = [[each.labels.tolist() for each in corpus.examples(row)] for row in range(3)]
    assert said == [[[2.0, -2.0], []], [[1.0, -1.0], []], [[0.0, 0.0], []]]
    assert corpus.all_labels().tolist() == [2.0, -2.0, 1.0, -1.0, 0.0, 0.0]
    assert corpus.first(1).all_labels().tolist() == [2.0, -2.0]


class NeverAgain(ByteEncoder):
    def encode(self, record: Any) -> Any:
        raise AssertionError("encoded again")


def test_it_is_encoded_once_wherever_the_file_is(tmp_path: Path) -> None:
    first = load(write(tmp_path / "a.jsonl", GOOD))
    moved = write(tmp_path / "elsewhere" / "b.jsonl", GOOD)
    again = load(moved, encoder=NeverAgain())
    assert texts(again) == texts(first) and again.fingerprint == first.fingerprint
    assert again.examples(0)[0].address == f"{moved}:1"


@pytest.mark.parametrize("change", ["content", "encoder", "format", "columns", "accepts"])
def test_any_change_encodes_again(tmp_path: Path, cache: Path, change: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    before = load(path)
    encoder = ByteEncoder(fingerprint="other") if change == "encoder" else ByteEncoder()
    accepts = encoder.accepts[:2] if change == "accepts" else encoder.accepts
    reader = RecordReader(
        accepts=accepts,
        format="prompt_completion" if change == "format" else None,
        columns={"completion": "prompt"} if change == "columns" else {},
    )
    if change == "columns":
        write(path, [{**row, "completion": "x", "prompt": row["prompt"]} for row in GOOD])
        reader = RecordReader(accepts=accepts, columns={"prompt": "prompt"})
    if change == "content":
        write(path, [*GOOD[:-1], {**GOOD[-1], "completion": "9"}])
    after = load(path, encoder=encoder, reader=reader)
    assert after.key != before.key and after.fingerprint != before.fingerprint
    assert len(list(cache.iterdir())) == 2


def test_two_workers_give_the_same_bytes_as_none(tmp_path: Path, cache: Path) -> None:
    rows = [{"text": f"{i} " + "x" * (i % 700)} for i in range(12_000)]
    rows[7000] = {"text": "refuse me"}
    path = write(tmp_path / "a.jsonl", rows)  # of several blocks
    assert path.stat().st_size > 3 * 2**20
    found = []
    for workers in (0, 2):
        corpus = load(path, workers=workers, rules=SKIP)
        assert len(corpus) == len(rows) - 1
        assert corpus.skipped == (f"{path}:7001: refused as asked",)
        (directory,) = cache.iterdir()
        found.append({each.name: each.read_bytes() for each in directory.iterdir()})
        directory.rename(tmp_path / str(workers))
    assert found[0] == found[1]


def test_a_bad_row_ends_it_or_is_listed_also_from_the_cache(tmp_path: Path, cache: Path) -> None:
    bad = [*GOOD[:2], {"prompt": "x", "completion": " "}, *GOOD[2:]]
    path = write(tmp_path / "a.jsonl", bad)
    said = f"{path}:3: column 'completion' is empty"
    with pytest.raises(DataError, match=r":3: column 'completion' is empty"):
        load(path)
    assert list(cache.iterdir()) == []  # nothing half done is left
    skipping = load(path, rules=SKIP)
    assert len(skipping) == 5 and skipping.skipped[0].startswith(said)
    with pytest.raises(DataError, match=r":3: column 'completion' is empty"):
        load(path)  # what was skipped before is in the cache


def test_nothing_trained_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "ab"}, {"text": "a"}])
    with pytest.raises(DataError, match=r":2: no token of the row is trained"):
        load(path)


def test_two_formats_in_one_file_name_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*GOOD, {"text": "hello"}])
    with pytest.raises(DataError, match=rf"^{path}:6: .*format text \(text\), but {path}:1 is in"):
        load(path)


def test_no_usable_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "refuse me"}])
    with pytest.raises(DataError, match=r"no usable row: all 1 rows were skipped, first: .*asked"):
        load(path, rules=SKIP)
    with pytest.raises(DataError, match="no usable row: it has no rows"):
        load(write(tmp_path / "b.jsonl", []))


def test_long_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "ab", "completion": "cdef"}, {"prompt": "abcd", "completion": "e"}, GOOD[0]]
    path = write(tmp_path / "a.jsonl", [*rows[:2], {"prompt": "x", "completion": "yz"}])
    with pytest.raises(DataError, match=rf"^{path}:1: the row has 6 tokens, at most 4 fit"):
        load(path, max_tokens=4)
    skipping = load(path, max_tokens=4, on_long=OnLong.skip)
    assert texts(skipping) == [["xyz"]] and len(skipping.skipped) == 2
    cut = load(path, max_tokens=4, on_long=OnLong.truncate)
    assert texts(cut) == [["abcd"], ["xyz"]]
    assert cut.lengths_N.tolist() == [4, 3]
    assert cut.skipped == (f"{path}:2: the row has 5 tokens, at most 4 fit, and none of the first "
                           "4 is trained",)  # fmt: skip
    roomy, free = load(path, max_tokens=6), load(path)
    assert roomy.fingerprint == free.fingerprint != cut.fingerprint


def test_rows_are_held_out_by_their_content(tmp_path: Path) -> None:
    rows = [{"text": f"row {i % 500}"} for i in range(1000)]
    train, held = load(write(tmp_path / "a.jsonl", rows)).split(0.2)
    assert len(train) + len(held) == 1000 and 120 < len(held) < 280
    sides = {text for (text,) in texts(train)}, {text for (text,) in texts(held)}
    assert not sides[0] & sides[1]  # equal rows are on the same side
    _, more = load(write(tmp_path / "b.jsonl", [{"text": "new"}, *reversed(rows)])).split(0.2)
    assert sides[1] <= {text for (text,) in texts(more)}  # whatever else is there
    assert train.fingerprint != held.fingerprint
    assert len(held.first(7)) == 7


def test_rows_with_the_same_prompt_are_on_the_same_side(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"question {i % 100}", "chosen": f"good {i}", "rejected": f"bad {i}"}
        for i in range(400)
    ]
    corpus = load(write(tmp_path / "a.jsonl", rows))
    train, held = corpus.split(0.3)
    assert len(train) + len(held) == 400 and 15 < len(held) / 4 < 45
    assert held.num_asked_in([train]) == train.num_asked_in([held]) == 0
    assert held.num_asked_in([corpus]) == len(held)
    told = [
        {"messages": [{"role": "user", "content": row["prompt"]},
                      {"role": "assistant", "content": row["chosen"]}]}
        for row in rows
    ]  # fmt: skip
    again = load(write(tmp_path / "b.jsonl", told)).split(0.3)
    assert [len(part) for part in again] == [len(train), len(held)]
    assert again[1].num_asked_in([held]) == len(held)


def test_a_damaged_cache_is_refused(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    load(path)
    (directory,) = cache.iterdir()
    with (directory / "ids_T").open("ab") as file:
        file.write(b"\0\0\0\0")
    with pytest.raises(DataError, match=r"damaged \(ids_T has .* bytes\); remove this directory"):
        load(path)
    (directory / "corpus.json").unlink()
    with pytest.raises(DataError, match="damaged"):
        load(path)


def test_two_that_encode_at_once_both_succeed(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    together = threading.Barrier(2, timeout=60)

    class Meeting(ByteEncoder):
        def encode(self, record: Any) -> Any:
            if record.address.endswith(":1"):
                together.wait()  # both are in the middle of encoding
            return super().encode(record)

    found: list[list[list[str]]] = []

    def one() -> None:
        found.append(texts(load(path, encoder=Meeting())))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2 and found[0] == found[1]
    assert len(list(cache.iterdir())) == 1


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from byte_encoder import StoppingEncoder
from rlpost.data.corpus.corpus import CorpusRules, load_corpus
from rlpost.data.formats.reader import RecordReader
from rlpost.data.sources.load import find_rows
encoder = StoppingEncoder(marks=Path({marks!r}))
load_corpus(find_rows({path!r}), name="a", reader=RecordReader(accepts=encoder.accepts),
    encoder=encoder, rules=CorpusRules(), workers=2)
"""


def test_a_killed_encode_leaves_nothing_complete_and_no_process(
    tmp_path: Path, cache: Path
) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x" * 1000} for _ in range(4000)])
    marks = tmp_path / "marks"
    marks.mkdir()
    code = KILLED.format(paths=[str(Path(__file__).parents[2])], marks=str(marks), path=str(path))
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    while len(list(marks.iterdir())) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    workers = [psutil.Process(int(each.name)) for each in marks.iterdir()]
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert len(gone) == 2 and not alive
    assert all(each.name.startswith(".") for each in cache.iterdir())
    assert len(load(path)) == 4000


def test_a_process_that_dies_is_named(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    marks = tmp_path / "marks"
    marks.mkdir()
    with pytest.raises(InfrastructureError, match="a process that encodes data died"):
        load(path, encoder=StoppingEncoder(marks=marks, stop="die"), workers=1)
    assert [int(each.name) for each in marks.iterdir()] != [os.getpid()]
    assert list(cache.iterdir()) == []


def test_arrays_are_mapped_not_read(tmp_path: Path) -> None:
    corpus = load(write(tmp_path / "a.jsonl", GOOD))
    assert isinstance(corpus._files.ids_T, np.memmap)
