"""The parts of an answer that a chat template marks with ``{% generation %}`` blocks.

Owns their translation to tokens, which is transformers' own mask. Refuses to own what else is
trained (turn.py). Invariant: a mask is returned only if its places are those of our tokens and it
holds the end-of-turn token. transformers misplaces blocks inside macros, and loses the last bytes
of a block that ends in a character of several tokens; neither passes.

T: tokens up to the end of one answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlpost.data.boundary import refusal
from rlpost.data.conversation.checks import Mask
from rlpost.data.conversation.continuation import Continued
from rlpost.data.conversation.stops import Stops
from rlpost.data.records import Schemas
from rlpost.data.template import ChatTokenizer
from rlpost.errors import DataError


def has_blocks(tokenizer: ChatTokenizer, tools: Schemas) -> bool:
    """Return whether the chat template marks what is trained by ``{% generation %}`` blocks."""
    template = tokenizer.get_chat_template(tools=list(tools) or None)
    return "endgeneration" in template


def block_mask(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Schemas,
    *,
    joined: Continued,
    size: int,
    end: int,
    stops: Stops,
    where: str,
) -> Mask:
    """Return (T,) which of an answer's tokens lie in a block.

    Args:
        tokenizer: one whose template has blocks.
        messages: the conversation up to and with the answer.
        tools: function schemas that the template shows.
        joined: our tokens of the conversation. Where the prompt and the answer share a token, they
            are not those of transformers; then only a block around the whole answer has a meaning.
        size: characters in front of the answer.
        end: the place of the answer's end-of-turn token; T is one more.
        stops: the tokens that end a turn.
        where: the message's address, for errors.

    Raises:
        DataError: the places of the blocks are unknown, or no block holds the end-of-turn token.
    """
    with refusal(
        where,
        "transformers cannot apply the template's {% generation %} blocks",
        way_out="remove the blocks from the template, which masks do not need",
    ):
        result = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=[dict(tool) for tool in tools] or None,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True},
        )
    ids, mask = list(result["input_ids"]), np.array(result["assistant_masks"], np.bool_)
    if ids != joined.ids:
        first = sum(stop <= size for _, stop in result["offset_mapping"])
        last = stops.first(ids, start=first)
        if not joined.cut or last is None or not mask[first : last + 1].all():
            raise DataError(
                f"{where}: the template's {{% generation %}} blocks hold a part of an answer that "
                "shares a token with the prompt, or that continues the generation prompt, so "
                "their places are unknown; remove the blocks from the template, which masks do "
                "not need"
            )
        mask = np.ones(len(joined.ids), np.bool_)
    if not mask[end]:
        raise DataError(
            f"{where}: the template's {{% generation %}} blocks do not hold the end-of-turn "
            "token, so the model would not learn to stop; move {% endgeneration %} behind it "
            "(transformers misplaces a block inside a macro), or remove the blocks, which masks "
            "do not need"
        )
    return mask[: end + 1]
