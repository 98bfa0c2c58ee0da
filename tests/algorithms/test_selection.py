"""What is kept, by hand."""

import pytest

from rlpost.algorithms.selection import SelectionConfig, select
from rlpost.bounds import check_config
from rlpost.errors import UserError

REWARDS = [0.0, 1.0, None, 0.5, 1.0]
IDS = [(1,), (2, 3), (4,), (5,), (2, 3)]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 3, 4]),  # but never what was not judged
        ({"min_reward": 0.5}, [1, 3, 4]),
        ({"min_reward": 1.0, "dedupe": True}, [1]),
        ({"best": 1}, [1]),
        ({"best": 2}, [1, 4]),  # a tie goes to the earlier sample
        ({"best": 2, "dedupe": True}, [1, 3]),
        ({"min_reward": 0.0, "drop_solved": True}, []),
        ({"min_reward": 0.5, "drop_solved": True}, [1, 3, 4]),
        ({"min_reward": 2.0}, []),
    ],
)
def test_rules(options, kept):
    assert select(REWARDS, response_ids=IDS, config=SelectionConfig(**options)) == kept


def test_no_response_is_safe():
    assert select([], response_ids=[], config=SelectionConfig(best=1)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"best": 0}, r"selection.best must be in \[1, .*got 0"),
        ({"min_reward": float("nan")}, r"selection.min_reward must be in \["),
        ({"drop_solved": True}, "needs selection.min_reward"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        check_config(SelectionConfig(**options), "selection")
