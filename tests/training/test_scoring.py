"""The layout of batches that are only scored, by hand."""

import pytest

from rlpost.training.batch import Block
from rlpost.training.scoring import scoring_batch


def test_two_blocks_by_hand():
    batch = scoring_batch([([1, 2], [[3, 4], [5]]), ([6], [[7]])])
    assert batch.token_ids_T.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert batch.position_ids_T.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert batch.blocks == (
        Block(prompt=(0, 2), responses=((2, 4), (4, 5))),
        Block(prompt=(5, 6), responses=((6, 7),)),
    )
    assert batch.predictor_R.tolist() == [1, 2, 1, 5]
    assert batch.target_R.tolist() == [3, 4, 5, 7]
    assert batch.loss_weight_R.tolist() == [0, 0, 0, 0]


def test_nothing_to_predict_from_is_refused():
    with pytest.raises(AssertionError):
        scoring_batch([([], [[1]])])
