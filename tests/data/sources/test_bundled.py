import pytest

from rlpost.data.rows import Split
from rlpost.data.sources.load import load_rows
from rlpost.errors import UserError


def rows(name, split, size=200, seed=0):
    return [row.columns for row in load_rows(name, split=split, size=size, seed=seed)]


@pytest.mark.parametrize("name", ["general", "format", "reasoning"])
def test_held_out_rows_are_those_of_the_suite(name):
    held_out = rows(f"suite:{name}", Split.HELDOUT, seed=5)
    answered = [{"completion": row["answer"], **row} for row in held_out]
    assert rows(f"bundled:{name}", Split.HELDOUT) == answered


def test_what_is_replayed_is_answered_and_never_asked():
    replayed = rows("bundled:general", Split.TRAIN)
    assert replayed == rows("bundled:general", Split.TRAIN)
    assert len(replayed) == 200 and all(row["completion"] for row in replayed)
    asked = {row["prompt"] for row in rows("bundled:general", Split.HELDOUT, size=10**6)}
    assert not asked & {row["prompt"] for row in replayed}


def test_an_unknown_suite_is_refused():
    with pytest.raises(UserError, match="did you mean 'general'"):
        rows("bundled:genral", Split.TRAIN)
