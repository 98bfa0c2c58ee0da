"""Units in micro-batches, by hand and by laws. Of groups: tests/stages/rl/test_units.py."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.errors import UserError
from rlpost.training.packing.batch import Block
from rlpost.training.packing.pack import one_batch, pack
from rlpost.training.packing.units import Unit
from rlpost.training.packing.work import BY_TOKENS, ForwardWork

PAIR = Unit.sharing([1, 2], {4: [3, 4], 5: [5]})
LATER = Unit.of([6, 7, 8, 9], scored=np.array([False, False, True, False]), number=9)


def only(units, **options):
    ((batch,),) = pack(units, num_ranks=1, max_tokens=100, **options).batches
    return batch


def test_a_pair_and_a_masked_sequence_by_hand():
    for batch in (one_batch([PAIR, LATER]), only([PAIR, LATER])):
        assert batch.token_ids_T.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert batch.position_ids_T.tolist() == [0, 1, 2, 3, 2, 0, 1, 2, 3]
        assert batch.blocks == (
            Block(prompt=(0, 2), responses=((2, 4), (4, 5))),
            Block(prompt=(5, 7), responses=((7, 9),)),
        )
        assert batch.read_R.tolist() == [1, 2, 1, 6]
        assert batch.token_R.tolist() == [2, 3, 4, 7]
        assert batch.target_R.tolist() == [3, 4, 5, 8]
        assert batch.item_R.tolist() == [0, 0, 1, 2]
        assert batch.unit_I.tolist() == [0, 0, 1]
        assert batch.number_I.tolist() == [4, 5, 9]
        assert batch.number_U.tolist() == [0, 1]


def test_without_sharing_a_pair_stays_together_with_two_prompts():
    batch = only([PAIR], share_prompts=False)
    assert batch.token_ids_T.tolist() == [1, 2, 3, 4, 1, 2, 5]
    assert batch.read_R.tolist() == [1, 2, 5]
    assert batch.unit_I.tolist() == [0, 0]


def test_only_a_family_shares_a_prompt():
    def prompts(*families):
        units = [
            Unit.sharing([1, 2, 3], {number: [4]}, family=family)
            for number, family in enumerate(families)
        ]
        return len(only(units).blocks)

    assert prompts(0, 0, 0) == 1
    assert prompts(0, 0, 1) == prompts(0, 1, 0) == 2
    assert prompts(None, None, None) == 3


def test_columns_by_item_and_by_unit():
    packed = pack([PAIR, LATER], num_ranks=1, max_tokens=100)
    by_item = {4: np.array([0.1, 0.2]), 5: np.array([0.3]), 9: np.array([0.4])}
    packed = packed.attach(
        weight_R=by_item, chosen_R={n: a > 0.2 for n, a in by_item.items()}, weight_U=[0.5, 0.25]
    ).attach(label_U=np.array([1, 0]), absent_R=None)
    columns = packed.batches[0][0].columns
    assert {name: str(array.dtype) for name, array in columns.items()} == {
        "weight_R": "float32", "chosen_R": "bool", "weight_U": "float32", "label_U": "int64"
    }  # fmt: skip
    assert columns["weight_R"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert columns["weight_U"].tolist() == [0.5, 0.25]
    assert columns["label_U"].tolist() == [1, 0]
    found = packed.column("weight_R")
    assert {n: a.tolist() for n, a in found.items()} == {
        n: pytest.approx(a.tolist()) for n, a in by_item.items()
    }
    assert packed.sizes() == {"perf/packed_tokens": 9, "perf/trained_tokens": 4}


@st.composite
def some_units(draw):
    units, number = [], 0
    for family in range(draw(st.integers(0, 8))):
        prompt = list(range(draw(st.integers(1, 5))))
        for _ in range(draw(st.integers(1, 3))):
            lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=2))
            responses = {number + i: [7] * length for i, length in enumerate(lengths)}
            units.append(Unit.sharing(prompt, responses, family=family))
            number += len(lengths)
    return units


@settings(max_examples=100)
@given(
    units=some_units(),
    num_ranks=st.integers(1, 4),
    max_tokens=st.integers(22, 60),
    share_prompts=st.booleans(),
    work=st.sampled_from([BY_TOKENS, ForwardWork(body=3, head=1, attention=2)]),
)
def test_units_are_whole_and_columns_follow_them(units, work, **layout):
    packed = pack(units, work=work, **layout).attach(
        number_R={
            item.number: np.full(len(item.ids), item.number)
            for unit in units
            for item in unit.items
        },
        place_U=np.arange(len(units)),
    )
    assert len({len(mine) for mine in packed.batches}) == 1
    seen = []
    for batch in (batch for mine in packed.batches for batch in mine):
        assert batch.num_tokens <= layout["max_tokens"]
        if batch.is_dummy:
            assert not any(column.any() for column in batch.columns.values())
            continue
        assert batch.columns["number_R"].tolist() == batch.number_I[batch.item_R].tolist()
        assert batch.columns["place_U"].tolist() == batch.number_U.tolist()
        for slot, place in enumerate(batch.number_U.tolist()):
            mine = batch.number_I[batch.unit_I == slot].tolist()
            assert mine == [item.number for item in units[place].items]
            seen.append(place)
    assert sorted(seen) == list(range(len(units)))


def test_what_is_wrong_is_refused():
    with pytest.raises(AssertionError, match="same number"):
        pack([PAIR, PAIR], num_ranks=1, max_tokens=100)
    with pytest.raises(UserError, match=r"got 4: unit 0 has 2 \+ 3 tokens.* at least 5"):
        pack([PAIR], num_ranks=1, max_tokens=4)
    packed = pack([PAIR], num_ranks=1, max_tokens=100)
    with pytest.raises(AssertionError, match="by item number"):
        packed.attach(weight_R=[1.0, 1.0, 1.0])
    with pytest.raises(AssertionError):
        packed.by_item([[np.zeros(2)]])


@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=12), num_ranks=st.integers(1, 3))
def test_unfilled_micro_batches_hold_one_block_and_ranks_keep_step(lengths, num_ranks):
    units = [
        Unit.of(list(range(length)), scored=np.arange(length) > 0, number=number)
        for number, length in enumerate(lengths)
    ]
    batches = pack(units, num_ranks=num_ranks, max_tokens=1000, fill=False).batches
    rounds = [[b for b in each if not b.is_dummy] for each in zip(*batches, strict=True)]
    assert all(len(batch.blocks) == 1 for each in rounds for batch in each)
    numbers = sorted(n for each in rounds for batch in each for n in batch.number_U.tolist())
    assert numbers == list(range(len(units)))
    sizes = [[batch.num_tokens for batch in each] for each in rounds]
    for longer, shorter in itertools.pairwise(sizes):  # ranks work on rows of about one length
        assert min(longer) >= max(shorter)
