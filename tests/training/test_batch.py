from dataclasses import replace

import numpy as np
import pytest
from packed_groups import pack_into, random_groups

BATCH = pack_into(*random_groups())[0][0]
FLOATS = ("ref_logprobs_R", "proximal_logprobs_R", "values_R", "returns_R")


@pytest.mark.parametrize("name", FLOATS)
def test_an_optional_field_has_one_number_per_response_token(name):
    right = np.zeros(len(BATCH.target_R), dtype=np.float32)
    assert getattr(replace(BATCH, **{name: right}), name) is right
    for wrong in (right[1:], right.astype(np.float64)):
        with pytest.raises(AssertionError, match=name):
            replace(BATCH, **{name: wrong})


def test_a_selection_is_of_bools():
    selected_R = np.ones(len(BATCH.target_R), dtype=bool)
    replace(BATCH, selected_R=selected_R)
    with pytest.raises(AssertionError, match="selected_R"):
        replace(BATCH, selected_R=selected_R.astype(np.int64))
