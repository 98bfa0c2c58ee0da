"""An example is one sequence with a mask of its own length."""

import numpy as np
import pytest

from rlpost.data.example import Example

IDS, TRAINED = np.array([5, 9, 2], np.int32), np.array([False, True, True])


def test_an_example_has_the_length_of_its_tokens() -> None:
    assert len(Example(ids=IDS, trained=TRAINED, address="x:1")) == 3


@pytest.mark.parametrize(
    ("ids", "trained"),
    [
        (IDS.astype(np.int64), TRAINED),
        (IDS, TRAINED.astype(np.int32)),
        (IDS, TRAINED[1:]),
        (IDS[:0], TRAINED[:0]),
        (IDS[None], TRAINED[None]),
        (IDS, np.array([True, True, True])),
    ],
    ids=["wide ids", "no mask", "other length", "empty", "two dimensions", "first token trained"],
)
def test_an_example_of_another_shape_is_refused(ids: np.ndarray, trained: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="x:1"):
        Example(ids=ids, trained=trained, address="x:1")
