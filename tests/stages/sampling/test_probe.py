"""The probe of a push needs no process."""

import pytest

from rlpost.data.dataset import PromptDataset
from rlpost.stages.sampling.probe import probe_of
from rlpost.types import Prompt
from rlpost.weights.publisher import WeightsConfig


def prompts(*lengths: int) -> PromptDataset:
    rows = [
        Prompt(uid=f"0:{i}", token_ids=tuple(range(10, 10 + length)), text="")
        for i, length in enumerate(lengths)
    ]
    return PromptDataset(rows, name="x", skipped=[])


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((30, 5, 9), [list(range(16, 40)), [10, 11, 12, 13, 14]]),  # the end of a long one
        ((1, 2), [[10] * 24, [10, 11]]),
        ((1,), [[10] * 24]),
    ],
)
def test_a_probe_has_at_least_two_tokens(lengths, expected):
    """With one token there is no log-prob to compare, and the first push failed."""
    assert probe_of(prompts(*lengths), WeightsConfig()) == expected
