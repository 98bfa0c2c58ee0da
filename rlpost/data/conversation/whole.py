"""Encodes a conversation of which every token is trained.

Owns ``data.train_on=all``: one render of the whole conversation, and the checks that it shows and
ends every answer. Refuses to own single answers (turn.py). Invariant: all tokens but the first are
trained, and each answer is followed by an end-of-turn token before the next message begins.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlpost.data.conversation.shown import require_shown
from rlpost.data.conversation.stops import Stops
from rlpost.data.example import Example
from rlpost.data.records import Schemas
from rlpost.data.template import ChatTokenizer, rendered_text, tokens
from rlpost.errors import DataError

Messages = Sequence[Mapping[str, Any]]


def whole_conversation(
    tokenizer: ChatTokenizer,
    messages: Messages,
    *,
    answers: Sequence[int],
    tools: Schemas,
    stops: Stops,
    address: str,
) -> Example:
    """Return the rendered conversation with every token but the first trained.

    Args:
        tokenizer: one with a chat template.
        messages: the conversation.
        answers: places of the assistant's messages.
        tools: function schemas that the template shows.
        stops: the tokens that end a turn.
        address: of the row, for errors.

    Raises:
        DataError: the template leaves out a part of an answer, or ends one with no stop token.
    """

    def rendered(shown: Messages) -> str:
        return rendered_text(tokenizer, shown, tools, address=address, add_generation_prompt=False)

    text = rendered(messages)
    for at in answers:
        require_shown(messages[at], text, stops=stops, where=f"{address}: message {at}")
    _require_ends(rendered(_marked(messages)), answers, stops=stops, address=address)
    ids = np.array(tokens(tokenizer, text, address=address), np.int32)
    trained = np.ones(len(ids), np.bool_)
    trained[0] = False
    return Example(ids=ids, trained=trained, address=address)


def _marker(index: int) -> str:
    return f"rlpost_message_{index}_"  # occurs in no other text


def _marked(messages: Messages) -> Messages:
    return [{**each, "content": _marker(index)} for index, each in enumerate(messages)]


def _require_ends(text: str, answers: Sequence[int], *, stops: Stops, address: str) -> None:
    for at in answers:
        _, shown, after = text.partition(_marker(at))
        ended, _, _ = after.partition(_marker(at + 1))
        if not shown or stops.within(ended) is None:
            raise DataError(
                f"{address}: message {at}: the rendered answer has none of the tokens that end a "
                f"turn ({stops}), so the model would not learn to stop. Name the right token as "
                "eos_token_id in generation_config.json, or repair the chat template"
            )
