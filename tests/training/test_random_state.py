"""The state of random generators survives JSON, and nothing else is taken for one."""

import json
import random

import numpy as np
import pytest
import torch

from rlpost.training.random_state import random_state, restore_random_state, seed_everything


def draws():
    return random.gauss(0, 1), float(np.random.normal()), torch.rand(1).item()


def test_a_state_continues_after_its_way_through_json():
    seed_everything(3, 1)
    draws()  # an odd number of Gaussians: both libraries keep the second of a pair
    saved = json.dumps(random_state())
    expected = [draws() for _ in range(3)]
    assert [draws() for _ in range(3)] != expected
    restore_random_state(json.loads(saved))
    assert [draws() for _ in range(3)] == expected


@pytest.mark.parametrize(
    "broken",
    [
        {"python": None},
        {"python": [3, [1, 2], None]},
        {"python": [3, ["x"] * 625, None]},
        {"numpy": ["MT19937", [1], 0, 0, 0.0]},
        {"numpy": ["MT19937", [2**64] * 624, 0, 0, 0.0]},
        {"torch": "AAAA"},
        {"torch": "no base64!"},
        {"torch": 7},
    ],
)
def test_anything_else_is_refused(broken):
    with pytest.raises(ValueError, match="not the state of random generators"):
        restore_random_state(random_state() | broken)
    with pytest.raises(ValueError, match="not the state of random generators"):
        restore_random_state({})
