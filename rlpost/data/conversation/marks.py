"""Which messages of a conversation are trained.

Owns the options of ``data.train_on`` and the keys by which single messages are left out. Refuses
to own tokens (turn.py). Invariant: only messages of the assistant are ever chosen.

A message of the assistant with ``"weight": 0`` (the key of OpenAI's and Mistral's fine-tuning
formats) or ``"train": false`` (axolotl's) is shown to the model, but not trained.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from rlpost.data.messages import Messages
from rlpost.errors import DataError


class TrainOn(Enum):
    """What is trained: each of the assistant's messages, only the last one, or every token."""

    assistant = "assistant"
    last = "last"
    all = "all"


KEYS = ("weight", "train")


def trained_messages(
    messages: Sequence[Mapping[str, Any]], *, train_on: TrainOn, first: int, address: str
) -> list[int]:
    """Return the places of the messages that are trained, in order.

    Args:
        messages: the conversation.
        train_on: ``assistant`` or ``last``; for ``all`` the assistant's messages are returned too.
        first: messages before this one belong to a given prompt, which is not trained.
        address: of the row, for errors.

    Raises:
        DataError: none is left, a key has an impossible value, or ``all`` meets a message that
            is to be left out.
    """
    wanted = [_wanted(each, where=f"{address}: message {i}") for i, each in enumerate(messages)]
    answers = [
        i for i, each in enumerate(messages) if each.get("role") == "assistant" and i >= first
    ]
    if train_on is TrainOn.last:
        answers = answers[-1:]
    left_out = [i for i in answers if not wanted[i]]
    if train_on is TrainOn.all and left_out:
        raise DataError(
            f"{address}: message {left_out[0]} is not to be trained, but data.train_on=all trains "
            "every token; use data.train_on=assistant, or remove the key"
        )
    chosen = [i for i in answers if wanted[i]]
    if not chosen:
        why = f"message {left_out[0]} says so" if left_out else "it has no answer of the assistant"
        raise DataError(
            f"{address}: nothing of the conversation is trained, because {why}; leave the row out"
        )
    return chosen


def without_marks(messages: Sequence[Mapping[str, Any]]) -> Messages:
    """Return the messages without the keys that only this file reads."""
    return [{k: v for k, v in each.items() if k not in KEYS} for each in messages]


def _wanted(message: Mapping[str, Any], *, where: str) -> bool:
    marks = {key: message[key] for key in KEYS if message.get(key) is not None}
    for key, value in marks.items():
        if value not in (0, 1):
            raise DataError(
                f"{where}: {key} must be {'0 or 1' if key == 'weight' else 'true or false'}, got "
                f"{value!r:.80}; a message is either trained or not"
            )
    if len(set(map(bool, marks.values()))) > 1:
        raise DataError(f"{where}: weight and train contradict each other; remove one of them")
    wanted = all(marks.values())
    if marks and wanted and message.get("role") != "assistant":
        raise DataError(
            f"{where}: only the assistant's messages can be trained one by one, but this one of "
            f"role {message.get('role')!r} has {next(iter(marks))}={next(iter(marks.values()))!r}; "
            "remove the key, or use data.train_on=all"
        )
    return wanted
