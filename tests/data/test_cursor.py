"""The cursor: every row once an epoch, and a resumed order equals an unbroken one."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.data.cursor import PromptCursor, parse_uid, prompt_uid, shuffled
from rlpost.errors import UserError


@given(n=st.integers(1, 40), seed=st.integers(0, 2**32), shuffle=st.booleans())
def test_each_epoch_holds_every_row_once(n: int, seed: int, shuffle: bool) -> None:
    taken = PromptCursor(n, seed=seed, shuffle=shuffle).take(3 * n)
    for epoch in range(3):
        part = taken[epoch * n : (epoch + 1) * n]
        assert {e for e, _ in part} == {epoch}
        assert sorted(row for _, row in part) == list(range(n))


@given(n=st.integers(1, 12), sizes=st.lists(st.integers(0, 9), max_size=8))
def test_batches_are_slices_of_one_sequence(n: int, sizes: list[int]) -> None:
    cursor = PromptCursor(n, seed=5)
    batches = [pair for size in sizes for pair in cursor.take(size)]
    assert batches == PromptCursor(n, seed=5).take(sum(sizes))


@given(
    n=st.integers(1, 12), seed=st.integers(0, 99), offset=st.integers(0, 40), shuffle=st.booleans()
)
def test_resume_at_every_offset(n: int, seed: int, offset: int, shuffle: bool) -> None:
    unbroken = PromptCursor(n, seed=seed, shuffle=shuffle, fingerprint="f")
    unbroken.take(offset)
    state = json.loads(json.dumps(unbroken.state_dict()))
    resumed = PromptCursor(n, seed=seed, shuffle=shuffle, fingerprint="f")
    resumed.take(3)  # a load overrides whatever was taken before
    resumed.load_state_dict(state)
    assert resumed.take(2 * n + 1) == unbroken.take(2 * n + 1)


def test_order_is_fixed_for_all_time() -> None:
    # Written down once: a change here would break the resumption of old runs.
    assert PromptCursor(5, seed=0).take(10) == [
        (0, 3), (0, 1), (0, 2), (0, 0), (0, 4),
        (1, 0), (1, 1), (1, 4), (1, 3), (1, 2),
    ]  # fmt: skip


def test_epochs_and_seeds_differ_when_shuffled() -> None:
    rows = [row for _, row in PromptCursor(50, seed=0).take(100)]
    assert rows[:50] != rows[50:]
    assert rows[:50] != [row for _, row in PromptCursor(50, seed=1).take(50)]


def test_unshuffled_keeps_stored_order() -> None:
    assert PromptCursor(3, shuffle=False).take(5) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"fingerprint": "g"}, "fingerprint g"),
        ({"num_rows": 8}, "data.train has 8 rows"),
        ({"seed": 4}, "seed is 4"),
        ({"shuffle": False}, "data.shuffle is False"),
    ],
)
def test_state_of_another_dataset_is_refused(other: dict, field: str) -> None:
    identity = {"num_rows": 7, "seed": 3, "shuffle": True, "fingerprint": "f"}
    state = PromptCursor(7, seed=3, fingerprint="f").state_dict()
    settings = identity | other
    cursor = PromptCursor(settings.pop("num_rows"), **settings)
    with pytest.raises(UserError, match=field) as caught:
        cursor.load_state_dict(state)
    assert "resume=never" in str(caught.value)


@given(epoch=st.integers(0, 10**6), row=st.integers(0, 10**9))
def test_uid_names_epoch_and_row(epoch: int, row: int) -> None:
    assert prompt_uid(2, 17) == "2:17"
    assert parse_uid(prompt_uid(epoch, row)) == (epoch, row)


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_shuffled_sorts_by_pythons_own_numbers(rows: int) -> None:
    generator = random.Random("7:3")
    keys = [generator.random() for _ in range(rows)]
    assert shuffled(rows, key="7:3").tolist() == sorted(range(rows), key=keys.__getitem__)


def test_passes_grow_with_every_row() -> None:
    cursor = PromptCursor(8)
    assert cursor.passes == 0.0
    cursor.take(2)
    assert cursor.passes == 0.25
    cursor.take(8)
    assert cursor.passes == 1.25
