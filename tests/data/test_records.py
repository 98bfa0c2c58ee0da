"""Records are fixed once they were made, and complete."""

from dataclasses import FrozenInstanceError

import pytest

from rlpost.data.records import Completion, Conversation, Document, Stepwise, asked


def test_records_are_frozen() -> None:
    record = Completion(prompt="a", completion="b", address="x:1")
    with pytest.raises(FrozenInstanceError):
        record.prompt = "c"  # type: ignore[misc]


def test_every_step_has_a_label() -> None:
    Stepwise(prompt="a", completions=("b",), labels=(1.0,), address="x:1")
    with pytest.raises(AssertionError, match="x:1"):
        Stepwise(prompt="a", completions=("b",), labels=(1.0, 0.0), address="x:1")


def test_what_a_record_asks_is_what_comes_before_the_first_answer() -> None:
    user, answer = ({"role": role, "content": "hi"} for role in ("user", "assistant"))
    said = Conversation(messages=(user, answer, user, answer), address="x:1")
    text = Completion(prompt="hi", completion="a", address="x:1")
    assert asked(said) == asked(text) == (user,)
    turns = Completion(prompt=(user, answer, user), completion="a", address="x:1")
    assert asked(turns) == (user, answer, user)
    assert asked(Document(text="hi", address="x:1")) == ()
    assert asked(Conversation(messages=(answer,), address="x:1")) == ()
