"""Records are fixed once they were made, and complete."""

from dataclasses import FrozenInstanceError

import pytest

from rlpost.data.records import Completion, Stepwise


def test_records_are_frozen() -> None:
    record = Completion(prompt="a", completion="b", address="x:1")
    with pytest.raises(FrozenInstanceError):
        record.prompt = "c"  # type: ignore[misc]


def test_every_step_has_a_label() -> None:
    Stepwise(prompt="a", completions=("b",), labels=(1.0,), address="x:1")
    with pytest.raises(AssertionError, match="x:1"):
        Stepwise(prompt="a", completions=("b",), labels=(1.0, 0.0), address="x:1")
