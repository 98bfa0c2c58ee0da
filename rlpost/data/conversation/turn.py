"""One answer of the assistant as training sees it: what the model is given, and what it learns.

Owns the definition of a trained turn. Refuses to own which messages are trained (marks.py) and how
turns join to one sequence (joining.py).

The definition: the model is given the tokens of the messages before the answer, rendered with the
generation prompt; it learns everything that the template renders after these, up to and with the
first end-of-turn token. Invariant: the tokens of a turn begin with those that generation begins
with, so no mask can be shifted. A template by whose rules the rendered answer does not begin with
the generation prompt, as DeepSeek-R1's, needs an answer that goes on where that prompt ends.

The line feed that many templates put after the end-of-turn token belongs to no turn: generation
never reaches it.

T: tokens of the sequence.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rlpost.data.conversation.blocks import block_mask, has_blocks
from rlpost.data.conversation.checks import Ids, Mask
from rlpost.data.conversation.continuation import continued, decoded
from rlpost.data.conversation.segments import Encode, segment_encoder
from rlpost.data.conversation.shown import require_readable, require_shown, shared_length
from rlpost.data.conversation.stops import Stops
from rlpost.data.records import Schemas
from rlpost.data.template import ChatTokenizer, rendered_text, tokens
from rlpost.errors import DataError

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedTurn:
    """Tokens up to the end of one answer.

    Attributes:
        ids: (T,) what the model is given, then the answer with its end-of-turn token.
        trained: (T,) the answer, or the part of it that the template's own marks choose.
        start: how many tokens the model is given.
    """

    ids: Ids
    trained: Mask
    start: int


@dataclass(frozen=True, kw_only=True)
class TurnEncoder:
    """Encodes answers with one tokenizer and its chat template."""

    tokenizer: ChatTokenizer
    stops: Stops
    added: re.Pattern[str]  # names of the tokens that were added to the vocabulary

    def encode_all(
        self, messages: Messages, answers: Sequence[int], *, tools: Schemas, address: str
    ) -> list[TrainedTurn]:
        """Return the turns of the messages at ``answers``, which are the assistant's.

        Args:
            messages: the conversation.
            answers: places of the messages that are trained, in order.
            tools: function schemas that the template shows.
            address: of the row, for errors.

        Raises:
            DataError: as for ``encode``.
        """
        encode: Encode = partial(tokens, self.tokenizer, address=address)
        if len(answers) > _FEW_ANSWERS:
            longest = self._text(messages[: answers[-1] + 1], tools, address, prompt=False)
            encode = segment_encoder(self.tokenizer, self.added, longest=longest, address=address)
        return [
            self.encode(messages[: at + 1], tools=tools, address=address, encode=encode)
            for at in answers
        ]

    def encode(
        self, messages: Messages, *, tools: Schemas, address: str, encode: Encode
    ) -> TrainedTurn:
        """Return the turn of the last message, which is the assistant's.

        Args:
            messages: the conversation up to and with the answer, which is not the first message.
            tools: function schemas that the template shows.
            address: of the row, for errors.
            encode: returns the tokens of a text.

        Raises:
            DataError: the template refuses the messages, leaves out a part of the answer, ends it
                with no end-of-turn token, or renders it in another way than generation begins.
        """
        where = f"{address}: message {len(messages) - 1}"
        if len(messages) < 2:
            raise DataError(
                f"{where}: an answer that comes first has no prompt to be learned from; put a user "
                'message before it, or mark it with "weight": 0'
            )
        given = self._text(messages[:-1], tools, address, prompt=True)
        whole = self._text(messages, tools, address, prompt=False)
        if whole.startswith(given):
            answer = whole[len(given) :]
        else:
            answer = self._continuing(messages, tools, given=given, whole=whole, address=address)
        joined = continued(self.tokenizer, given, answer, encode=encode, address=where)
        end = self.stops.first(joined.ids, start=joined.start)
        if end is None:
            raise DataError(
                f"{where}: the rendered answer has none of the tokens that end a turn "
                f"({self.stops}), so the model would not learn to stop; it ends with "
                f"{whole[-40:]!r}. Name the right token as eos_token_id in generation_config.json, "
                "or repair the chat template"
            )
        self._require_shown(messages, tools, answer, given=given, address=address)
        read = decoded(self.tokenizer, joined.ids[joined.start : end])
        require_readable(read, self.stops.before_first(answer), where=where)
        trained = np.zeros(end + 1, np.bool_)
        trained[joined.start :] = True
        if has_blocks(self.tokenizer, tools):
            trained &= block_mask(
                self.tokenizer,
                messages,
                tools,
                joined=joined,
                size=len(given),
                end=end,
                stops=self.stops,
                where=where,
            )
        return TrainedTurn(
            ids=np.array(joined.ids[: end + 1], np.int32), trained=trained, start=joined.start
        )

    def _text(self, messages: Messages, tools: Schemas, address: str, *, prompt: bool) -> str:
        return rendered_text(
            self.tokenizer, messages, tools, address=address, add_generation_prompt=prompt
        )

    def _require_shown(
        self, messages: Messages, tools: Schemas, answer: str, *, given: str, address: str
    ) -> None:
        learned = self.stops.before_first(answer)
        content = str(messages[-1].get("content") or "")
        if content.strip() not in learned:
            # What the generation prompt begins, such as "<think>", the content may repeat.
            plain = self._text(messages[:-1], tools, address, prompt=False)
            learned = given[shared_length(given, plain) :] + learned
        where = f"{address}: message {len(messages) - 1}"
        require_shown(messages[-1], learned, stops=self.stops, where=where)

    def _continuing(
        self, messages: Messages, tools: Schemas, *, given: str, whole: str, address: str
    ) -> str:
        """Return how an answer goes on after a generation prompt that the render lacks.

        DeepSeek-R1's generation prompt ends with ``<think>``, and its render of an answer drops
        all up to ``</think>``. An answer that begins as the generation prompt ends is the text
        that the model produced; the template decides how it closes.
        """
        where = f"{address}: message {len(messages) - 1}"
        content = str(messages[-1].get("content") or "").strip()
        marker = [*messages[:-1], {**messages[-1], "content": _MARKER}]
        marked = self._text(marker, tools, address, prompt=False)
        common = min(shared_length(given, whole), shared_length(given, marked))
        begun, shown = given[common:], whole[common:]
        closing = marked[common:].removeprefix(_MARKER)
        kept = shown.removesuffix(closing)
        proved = (
            content.startswith(begun)
            and shown.endswith(closing)
            and closing != shown
            and _MARKER not in closing
            and content.endswith(kept.strip())
        )
        if not proved:
            raise DataError(
                f"{where}: generation begins with {begun[-40:]!r} where the rendered conversation "
                f"has {shown[:40]!r}, so the model would be trained on a text that it never sees "
                "when it generates; begin the answer's content with what generation begins with, "
                "if that is what the model writes there, or repair the chat template"
            )
        return content[len(begun) :] + closing


_FEW_ANSWERS = 2  # up to so many are tokenized as whole texts, which is as quick
_MARKER = "rlpost_answer_"  # occurs in no other text
