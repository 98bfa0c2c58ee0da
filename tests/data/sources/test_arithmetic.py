"""The arithmetic task: sides that share no pair, true answers, a fixed order."""

import re

import pytest

from rlpost.data.rows import Row, Split
from rlpost.data.sources.arithmetic import OPERANDS, operand_pairs
from rlpost.data.sources.load import load_rows
from rlpost.errors import UserError


def questions(split: Split, size: int = 1000) -> list[tuple[int, int, int]]:
    rows = list(load_rows("arithmetic", split=split, size=size))
    found = []
    for row in rows:
        assert isinstance(row, Row)
        match = re.fullmatch(r"What is (\d+) \* (\d+)\?", row.columns["prompt"])
        assert match
        found.append((int(match[1]), int(match[2]), int(row.columns["answer"])))
    return found


def test_answers_are_products() -> None:
    for split in Split:
        assert all(a * b == answer for a, b, answer in questions(split))


def test_splits_share_no_unordered_pair() -> None:
    train = {frozenset(q[:2]) for q in questions(Split.TRAIN)}
    held_out = {frozenset(q[:2]) for q in questions(Split.HELDOUT)}
    assert not train & held_out
    assert len(train) == 50
    assert len(held_out) == 16


def test_ordered_questions_cover_the_table_once() -> None:
    asked = [q[:2] for split in Split for q in questions(split)]
    assert sorted(asked) == [(a, b) for a in OPERANDS for b in OPERANDS]  # 121


def test_splits_are_equally_hard() -> None:
    means = {}
    for split in Split:
        products = [a * b for a, b in operand_pairs(split)]
        means[split] = sum(products) / len(products)
    assert means[Split.HELDOUT] == pytest.approx(means[Split.TRAIN], rel=0.01)


def test_size_is_an_upper_bound_that_spans_the_range() -> None:
    few = questions(Split.TRAIN, size=14)
    assert len(few) == 14
    assert few == questions(Split.TRAIN)[:14]
    assert max(q[2] for q in few) > 80


def test_a_variant_is_refused() -> None:
    with pytest.raises(UserError, match="'arithmetic:hard' has a part after"):
        list(load_rows("arithmetic:hard"))
