"""Encodes conversations and completions for stages that learn the likelihood of answers.

Owns which method a record takes and the order of the checks. Refuses to own templates
(template.py), the tokens of one answer (turn.py) and the reading of files. Invariants: nothing is
trained that generation would not produce at this place; every example has passed checks.py.
"""

from collections.abc import Sequence
from typing import ClassVar

from rlpost.data.conversation.blocks import has_blocks
from rlpost.data.conversation.checks import check_answers, check_bos
from rlpost.data.conversation.continuation import decoded
from rlpost.data.conversation.control_tokens import control_tokens, require_no_control
from rlpost.data.conversation.identity import encoder_identity
from rlpost.data.conversation.joining import Joined, join
from rlpost.data.conversation.marks import TrainOn, trained_messages, without_marks
from rlpost.data.conversation.segments import added_tokens
from rlpost.data.conversation.shown import text_parts
from rlpost.data.conversation.stops import Stops
from rlpost.data.conversation.text import text_example
from rlpost.data.conversation.text_bound import TextBound
from rlpost.data.conversation.truncation import truncated
from rlpost.data.conversation.turn import TurnEncoder
from rlpost.data.conversation.whole import whole_conversation
from rlpost.data.example import Example
from rlpost.data.messages import Messages
from rlpost.data.records import Completion, Content, Conversation, Record
from rlpost.data.template import ChatTokenizer, rendered_text, require_tools
from rlpost.errors import DataError

_VERSION = 2  # changes whenever the same record would get other tokens or another mask


class ConversationEncoder:
    """Turns conversations and completions into examples, with a mask of what is trained.

    Args:
        tokenizer: a transformers tokenizer.
        train_on: each answer of the assistant, only the last, or every token but the first.
        truncate_to: an example with more tokens loses the answers that end behind this bound;
            None: examples may have any length.
        refuse_above: a text that is sure to have more tokens is refused before it is tokenized;
            None: none is.
        stop_ids: tokens at which generation stops besides the tokenizer's end-of-sequence token,
            such as those of ``eos_token_id`` in generation_config.json.

    Raises:
        UserError: there is no token at which generation stops.
    """

    accepts: ClassVar[tuple[type[Record], ...]] = (Conversation, Completion)

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        train_on: TrainOn | str = TrainOn.assistant,
        truncate_to: int | None = None,
        refuse_above: int | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._train_on = TrainOn(train_on)
        self._truncate_to = truncate_to
        self._bound = TextBound(tokenizer=tokenizer, max_tokens=refuse_above)
        bos = tokenizer.bos_token_id
        self._bos_text = None if bos is None else decoded(tokenizer, [bos])
        self._stops = Stops(tokenizer, stop_ids)
        self._control = control_tokens(tokenizer, stops=self._stops.texts.values())
        self._turns = TurnEncoder(
            tokenizer=tokenizer, stops=self._stops, added=added_tokens(tokenizer)
        )
        self.fingerprint = encoder_identity(
            tokenizer,
            version=_VERSION,
            train_on=self._train_on.value,
            truncate_to=truncate_to,
            stops=sorted(self._stops.ids),
        )

    def encode(self, record: Record) -> list[Example]:
        """Return the examples of one record: one, or one for each answer that needs its own.

        Raises:
            RowTooLong: it is sure to have more than ``refuse_above`` tokens.
            DataError: the record cannot be encoded with a mask that is known to be right, or has no
                answer that ends within ``truncate_to`` tokens.
        """
        assert isinstance(record, Conversation | Completion), type(record)
        if self._tokenizer.chat_template is None:
            whole = self._train_on is TrainOn.all
            for text in _plain_texts(record):
                self._bound.require(text, address=record.address)
            examples = [text_example(self._tokenizer, record, stops=self._stops, whole=whole)]
        else:
            examples = self._chat(record)
        for each in examples:
            check_bos(
                each.ids, bos=self._tokenizer.bos_token_id, stops=self._stops, address=each.address
            )
        if self._truncate_to is None:
            return examples
        return truncated(examples, self._truncate_to, stops=self._stops)

    def _chat(self, record: Conversation | Completion) -> list[Example]:
        address = record.address
        marked, first = _conversation(record)
        chosen = trained_messages(marked, train_on=self._train_on, first=first, address=address)
        messages = without_marks(marked)
        self._require_fits(messages[: chosen[-1] + 1], record)
        prompt = messages[: max(chosen[-1], 1)]
        require_tools(self._tokenizer, prompt, record.tools, address=address)
        self._require_no_bos(messages, address=address)
        require_no_control(messages, self._control, address=address)
        if self._train_on is TrainOn.all:
            whole = whole_conversation(
                self._tokenizer,
                messages,
                answers=chosen,
                tools=record.tools,
                stops=self._stops,
                address=address,
            )
            return [whole]
        turns = self._turns.encode_all(messages, chosen, tools=record.tools, address=address)
        return [self._checked(each, record) for each in join(turns)]

    def _checked(self, joined: Joined, record: Conversation | Completion) -> Example:
        check_answers(
            joined.ids,
            joined.trained,
            prompts=joined.prompts,
            stops=self._stops,
            narrowed=has_blocks(self._tokenizer, record.tools),
            address=record.address,
        )
        return Example(ids=joined.ids, trained=joined.trained, address=record.address)

    def _require_fits(self, messages: Messages, record: Conversation | Completion) -> None:
        """Refuse what is sure to be too long; a template may drop a part of a message."""
        if self._bound.may_exceed(part for each in messages for _, part in text_parts(each)):
            text = rendered_text(
                self._tokenizer,
                messages,
                record.tools,
                address=record.address,
                add_generation_prompt=False,
            )
            self._bound.require(text, address=record.address)

    def _require_no_bos(self, messages: Messages, *, address: str) -> None:
        bos = self._bos_text
        for index, message in enumerate(messages):
            if bos and any(bos in part for _, part in text_parts(message)):
                raise DataError(
                    f"{address}: message {index}: its text contains {bos!r}, the "
                    "beginning-of-sequence token, which the template alone may write; remove it"
                )


def _conversation(record: Conversation | Completion) -> tuple[Messages, int]:
    """Return a record's messages, and how many of them are the given prompt."""
    if isinstance(record, Conversation):
        return [dict(each) for each in record.messages], 0
    prompt = _messages(record.prompt, role="user")
    return [*prompt, *_messages(record.completion, role="assistant")], len(prompt)


def _plain_texts(record: Conversation | Completion) -> list[str]:
    """Return the texts of a record for a model without a chat template; none if it has others."""
    if isinstance(record, Conversation):
        return []
    return [each for each in (record.prompt, record.completion) if isinstance(each, str)]


def _messages(content: Content, *, role: str) -> Messages:
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    return [dict(each) for each in content]
