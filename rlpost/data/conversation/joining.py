"""Joins the turns of one conversation to as few sequences as are right.

Owns the rule. Refuses to own the turns (turn.py). The rule: a turn joins the one before it if its
tokens begin with all tokens of that one; the joined sequence then trains both. Otherwise each is a
sequence of its own, because the template or the tokenizer writes a past answer in another way than
the model produced it: Qwen3 drops the thinking of past answers, for instance. Invariant: at every
trained token, the tokens before it are those that generation would have there.

T: tokens of the sequence.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rlpost.data.conversation.checks import Ids, Mask
from rlpost.data.conversation.turn import TrainedTurn


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """Turns of which each begins with the one before.

    Attributes:
        ids: (T,) tokens up to the end of the last turn.
        trained: (T,) tokens of all answers.
        prompts: of each turn, the tokens that the model is given.
    """

    ids: Ids
    trained: Mask
    prompts: tuple[Ids, ...]


def join(turns: Iterable[TrainedTurn]) -> list[Joined]:
    """Return the sequences of a conversation's turns, in their order."""
    joined: list[Joined] = []
    for turn in turns:
        trained = turn.trained
        prompts: tuple[Ids, ...] = (turn.ids[: turn.start],)
        last = joined[-1] if joined else None
        if last is not None and _begins_with(turn.ids[: turn.start], last.ids):
            trained = trained.copy()
            trained[: len(last.ids)] |= last.trained
            prompts = (*last.prompts, *prompts)
            joined.pop()
        joined.append(Joined(ids=turn.ids, trained=trained, prompts=prompts))
    return joined


def _begins_with(ids: Ids, start: Ids) -> bool:
    return np.array_equal(ids[: len(start)], start)
