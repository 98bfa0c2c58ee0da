"""One unit per pair: the prompt once, and weights of the whole optimizer batch."""

import numpy as np
import pytest

from rlpost.data.example import Example
from rlpost.stages.preference.batch import ResponsePacker

PROMPT = [1, 2, 3]


def example(answer, *, prompt=PROMPT, label=None, uid="s:0:0"):
    ids = np.array([*prompt, *answer], np.int32)
    labels = np.array([] if label is None else [label], np.float32)
    trained = np.arange(len(ids)) >= len(prompt)
    return Example(ids=ids, trained=trained, address="rows:1", uid=uid, labels=labels)


PAIRS = [
    example([5, 6]),
    example([5, 7, 8]),
    example([9], prompt=[4, 4]),
    example([8, 9], prompt=[4, 4]),
]


def packer(**options):
    return ResponsePacker(**({"num_ranks": 1, "max_tokens": 100, "judged": False} | options))


def batches(packed):
    return [batch for mine in packed.batches for batch in mine if not batch.is_dummy]


def test_the_prompt_of_a_pair_is_packed_once():
    (batch,) = batches(packer()(PAIRS[:2]))
    assert batch.token_ids_T.tolist() == [*PROMPT, 5, 6, 5, 7, 8]
    assert batch.position_ids_T.tolist() == [0, 1, 2, 3, 4, 3, 4, 5]
    assert batch.item_R.tolist() == [0, 0, 1, 1, 1] and batch.number_I.tolist() == [0, 1]
    (twice,) = batches(packer(share_prompts=False)(PAIRS[:2]))
    assert twice.token_ids_T.tolist() == [*PROMPT, 5, 6, *PROMPT, 5, 7, 8]


def test_pairs_with_equal_prompts_share_them_too():
    (batch,) = batches(packer()([*PAIRS[:2], example([6]), example([7])]))
    assert batch.token_ids_T.tolist() == [*PROMPT, 5, 6, 5, 7, 8, 6, 7]
    assert batch.unit_I.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("ways", [{}, {"max_tokens": 8}, {"fill": False}, {"num_ranks": 2}])
def test_weights_are_of_the_whole_batch(ways):
    packed = packer(trains_chosen=True, **ways)(PAIRS)
    found = batches(packed)
    assert sum(len(batch.number_U) for batch in found) == 2
    for batch in found:
        assert batch.columns["weight_U"].tolist() == [0.5] * len(batch.number_U)
    weights = packed.column("weight_R")
    assert {number: each.tolist() for number, each in weights.items()} == {
        0: pytest.approx([1 / 3, 1 / 3]),
        1: [0, 0, 0],
        2: pytest.approx([1 / 3]),
        3: [0, 0],
    }
    assert packed.sizes()["perf/trained_tokens"] == 8


def test_a_part_is_weighed_as_a_part():
    whole = packer(trains_chosen=True)
    (batch,) = batches(whole(PAIRS[2:], totals=whole.totals(PAIRS)))
    assert batch.columns["weight_U"].tolist() == [0.5]
    assert batch.columns["weight_R"].tolist() == pytest.approx([1 / 3, 0, 0])


def test_judged_completions_are_units_of_their_own():
    (batch,) = batches(packer(judged=True)([example([5], label=1), example([6], label=0)]))
    assert batch.token_ids_T.tolist() == [*PROMPT, 5, 6]
    assert batch.unit_I.tolist() == [0, 1]
    assert batch.columns["label_U"].tolist() == [1, 0]
    assert "weight_R" not in batch.columns


def test_an_answer_that_is_not_trained_is_read_and_not_scored():
    """The first answer of a side may be shown alone; the prompt ends where either side trains."""
    first = example([5, 6, 7])
    trained = first.trained.copy()
    trained[3] = False
    shown = Example(ids=first.ids, trained=trained, address="rows:1", uid="s:0:0")
    (batch,) = batches(packer()([shown, example([8])]))
    assert batch.token_ids_T.tolist() == [*PROMPT, 5, 6, 7, 8]
    assert batch.target_R.tolist() == [6, 7, 8]
