"""Synthetic sets as rows: the columns of their formats, splits, seeds and refusals."""

import hashlib
import json

import pytest

from rlpost.data.formats.table import recognise
from rlpost.data.records import Judged, Pair, Stepwise
from rlpost.data.rows import Row, Split
from rlpost.data.sources.load import load_rows, short_name
from rlpost.data.synthetic.catalog import PAIR_SETS, STEP_SETS
from rlpost.errors import UserError
from rlpost.evaluation.suites import item as items_module

NAMES = {
    **{f"pairs:{name}": Pair for name in PAIR_SETS},
    **{f"judged:{name}": Judged for name in PAIR_SETS},
    **{f"steps:{name}": Stepwise for name in STEP_SETS},
}
SETS = {
    **{f"pairs:{name}": found for name, found in PAIR_SETS.items()},
    **{f"steps:{name}": found for name, found in STEP_SETS.items()},
}
each_name = pytest.mark.parametrize("name", NAMES)
each_set = pytest.mark.parametrize("name", SETS)


def rows(name, split=Split.TRAIN, **request):
    found = list(load_rows(name, split=split, **request))
    assert all(isinstance(row, Row) for row in found)
    return found


@each_name
def test_rows_are_in_the_format_that_the_name_says(name):
    for split in Split:
        for row in rows(name, split, size=100):
            found = recognise(row, accepts=(NAMES[name],))
            assert isinstance(found.read(row), NAMES[name])


# Accuracies on different versions of a set cannot be compared: whoever changes one says so.
FINGERPRINTS = {
    "pairs:consistency": "de65f5f57448754c",
    "pairs:relations": "f5149ae9557939d5",
    "pairs:lowercase": "088252d5e41be16f",
    "steps:solutions": "7ee786f26371013a",
}


@each_set
def test_the_held_out_rows_are_those_of_this_version(name):
    text = json.dumps([row.columns for row in rows(name, Split.HELDOUT, size=10**5)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == FINGERPRINTS[name]


@each_name
def test_training_rows_follow_the_seed_and_held_out_rows_do_not(name):
    def columns(**request):
        return [row.columns for row in rows(name, size=60, **request)]

    assert columns(seed=1) == columns(seed=1) != columns(seed=2)
    assert columns(split=Split.HELDOUT, seed=1) == columns(split=Split.HELDOUT, seed=2)


@each_set
def test_nothing_that_is_trained_on_is_held_out(name):
    held_out = SETS[name].held_out()
    assert len({item.key for item in held_out}) == len(held_out) >= 300
    for seed in range(3):
        trained = SETS[name].training(1200, seed)
        assert len({item.prompt for item in trained}) == len(trained) == 1200
        assert not {item.key for item in trained} & {item.key for item in held_out}
        assert not {item.prompt for item in trained} & {item.prompt for item in held_out}


@each_set
def test_no_prompt_holds_one_of_its_answers(name):
    for row in (*rows(name, size=600), *rows(name, Split.HELDOUT, size=600)):
        columns = row.columns
        answers = columns.get("completions") or (columns["chosen"], columns["rejected"])
        assert not any(answer in columns["prompt"] for answer in answers), row


@each_set
def test_without_the_split_they_would_overlap(name, monkeypatch):
    held_out = {item.key for item in SETS[name].held_out()}
    monkeypatch.setattr(items_module, "is_held_out", lambda key: False)
    assert held_out & {item.key for item in SETS[name].training(1200, 0)}


@each_set
def test_the_first_rows_are_of_every_kind(name):
    kinds = [row.columns["kind"] for row in rows(name, size=8)]
    assert set(kinds) == set(SETS[name].kinds)


@pytest.mark.parametrize("name", PAIR_SETS)
def test_judged_rows_are_one_side_of_each_pair_and_half_of_them_good(name):
    pairs, judged = rows(f"pairs:{name}", size=240), rows(f"judged:{name}", size=240)
    for pair, row in zip(pairs, judged, strict=True):
        side = "chosen" if row.columns["label"] else "rejected"
        assert row.columns["completion"] == pair.columns[side]
        assert row.columns["prompt"] == pair.columns["prompt"]
    for kind in PAIR_SETS[name].kinds:
        labels = [row.columns["label"] for row in judged if row.columns["kind"] == kind]
        assert abs(2 * sum(labels) - len(labels)) <= 1


def test_names_in_metrics_leave_the_scheme_out():
    assert short_name("pairs:consistency") == "consistency"
    assert short_name("steps:solutions") == "solutions"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pairs:consistancy", "data.train: a set of pairs must be one of .*; did you mean 'consis"),
        ("pairs", r"a set of pairs must be one of consistency.*, got ''"),
        ("judged:solutions", "a set of judged answers must be one of consistency"),
        ("steps:consistency", "a set of steps must be one of solutions, got 'consistency'"),
    ],
)
def test_an_unknown_set_is_refused_with_the_list(name, message):
    with pytest.raises(UserError, match=message):
        rows(name)
