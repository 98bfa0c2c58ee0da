"""What is made of the options of data: shares, held-out rows, and what was left out."""

import json
from pathlib import Path
from typing import Any

import pytest
from byte_encoder import ByteEncoder, decoded

from rlpost.data.bad_rows import OnBadRow, OnLong
from rlpost.data.splits import Splits, load_splits
from rlpost.data.supervised import SourceConfig, SupervisedDataConfig
from rlpost.errors import DataError, UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, size in {"chat": 30, "code": 10, "books": 5}.items():
        rows = [{"text": f"{name} {i}"} for i in range(size)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(**options: Any) -> Splits:
    return load_splits(
        SupervisedDataConfig(workers=0, **options), encoder=ByteEncoder(), seed=0, max_tokens=100
    )


def sources(**paths: Any) -> dict[str, SourceConfig]:
    return {name: SourceConfig(path=f"{name}.jsonl", **each) for name, each in paths.items()}


def drawn(splits: Splits, n: int) -> list[str]:
    return [example.uid.split(":")[0] for example in splits.train.take(n)]


def test_one_file_is_a_mixture_of_one() -> None:
    splits = load(train="chat.jsonl")
    assert set(drawn(splits, 30)) == {"chat"}
    assert splits.train.epoch == 1 and splits.heldout == {}


def test_without_shares_all_rows_are_drawn_once_an_epoch() -> None:
    splits = load(sources=sources(chat={}, code={}, books={}))
    names = drawn(splits, 45)
    assert {name: names.count(name) for name in set(names)} == {"chat": 30, "code": 10, "books": 5}


def test_weights_are_shares_of_the_draws() -> None:
    splits = load(sources=sources(chat={"weight": 1}, code={"weight": 3}, books={"weight": 0}))
    names = drawn(splits, 40)
    assert (names.count("chat"), names.count("code")) == (10, 30)  # code is drawn three times over
    assert list(splits.train.corpora) == ["chat", "code"]


def test_a_source_of_weight_0_is_measured_and_never_drawn() -> None:
    def held(weight: float) -> list[str]:
        shares = sources(chat={"weight": 1}, books={"weight": weight})
        splits = load(sources=shares, heldout_fraction=0.3)
        assert (set(drawn(splits, 60)) == {"chat"}) is (weight == 0)
        books = splits.heldout["books"]
        return [decoded(books.examples(row)[0]) for row in range(len(books))]

    assert held(0) == held(1)


def test_fractions_are_shares_of_the_rows() -> None:
    splits = load(
        sources=sources(chat={"fraction": 0.5}, code={"fraction": 1}, books={"fraction": 3})
    )
    assert splits.train.rows_per_epoch == 40
    names = drawn(splits, 40)
    assert {name: names.count(name) for name in set(names)} == {"chat": 15, "code": 10, "books": 15}


def test_a_file_is_held_out() -> None:
    splits = load(train="chat.jsonl", heldout="code.jsonl", heldout_size=4)
    (held,) = splits.heldout.values()
    assert (held.name, len(held)) == ("code", 4)


def test_a_part_of_each_source_is_held_out() -> None:
    splits = load(sources=sources(chat={}, code={}), heldout_fraction=0.3)
    assert list(splits.heldout) == ["chat", "code"]
    trained = {decoded(each) for each in splits.train.take(200)}
    held = {decoded(c.examples(r)[0]) for c in splits.heldout.values() for r in range(len(c))}
    assert len(trained | held) == 40 and not trained & held


def test_a_generated_source_holds_out_its_own() -> None:
    splits = load(train="arithmetic", columns={"completion": "answer"}, size=8)
    assert splits.train.rows_per_epoch == 8
    assert len(splits.heldout["arithmetic"]) > 8
    assert decoded(splits.train.take(1)[0]).startswith("What is ")


def test_what_was_skipped_is_listed_once() -> None:
    with Path("chat.jsonl").open("a") as file:
        file.write('{"text": "refuse me"}\n')
    splits = load(train="chat.jsonl", heldout_fraction=0.3, on_bad_row=OnBadRow.skip)
    assert splits.skipped == ("chat.jsonl:31: refused as asked",)


def test_the_smaller_bound_of_length_applies() -> None:
    with pytest.raises(DataError, match=r"at most 5 fit; .* raise data\.max_tokens"):
        load(train="chat.jsonl", max_tokens=5)
    cut = load(train="chat.jsonl", max_tokens=5, on_long=OnLong.truncate)
    assert {len(each) for each in cut.train.take(30)} == {5}
    Path("long.jsonl").write_text(json.dumps({"text": "x" * 101}))
    with pytest.raises(DataError, match="101 tokens, at most 100 fit"):
        load(train="long.jsonl", max_tokens=200)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"train": "nowhere.jsonl"}, r"data\.train: 'nowhere\.jsonl' does not exist"),
        (
            {"train": "books.jsonl", "heldout_fraction": 1e-9},
            r"data\.heldout_fraction=1e-09 holds out no row of the source books, which has 5",
        ),
        (
            {"train": "books.jsonl", "heldout_fraction": 0.999999},
            "leaves no row to train on",
        ),
        ({"train": "chat.jsonl", "format": "pairs"}, r"data\.format must be one of messages, "),
    ],
)
def test_what_the_data_does_not_allow_is_refused(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        load(**options)


def test_a_copy_under_another_name_is_no_held_out_data() -> None:
    Path("copy.jsonl").write_bytes(Path("chat.jsonl").read_bytes())
    with pytest.raises(UserError, match=r"data\.heldout=copy\.jsonl has the same rows as .* chat"):
        load(train="chat.jsonl", heldout="copy.jsonl")


def test_rows_that_are_all_trained_on_are_no_held_out_data() -> None:
    lines = Path("chat.jsonl").read_text().splitlines(keepends=True)
    Path("part.jsonl").write_text("".join(lines[:2]))
    with pytest.raises(UserError, match=r"data\.heldout=part\.jsonl: each of its rows is also"):
        load(train="chat.jsonl", heldout="part.jsonl")
    Path("part.jsonl").write_text(lines[0] + json.dumps({"text": "not trained on"}))
    partly = load(train="chat.jsonl", heldout="part.jsonl")
    assert len(partly.heldout["part"]) == 2
    (caution,) = partly.cautions
    assert caution.startswith("1 of the 2 held-out rows of part have a prompt that is also trained")
    assert load(train="chat.jsonl", heldout_fraction=0.3).cautions == ()
