"""Encodes text for base models, which have no chat template: completions and documents.

Owns the tokens around a text. Refuses to own windows of a fixed length (training/packing) and
conversations (encoder.py). Invariants: a sequence begins with the beginning-of-sequence token if
the tokenizer puts one before plain text, and ends with a trained end-of-sequence token; the first
token is never trained.

A text may contain special tokens as their names; they are encoded as such.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from rlpost.data.conversation.continuation import continued, decoded
from rlpost.data.conversation.identity import encoder_identity
from rlpost.data.conversation.shown import require_readable
from rlpost.data.conversation.stops import Stops
from rlpost.data.conversation.text_bound import TextBound
from rlpost.data.encoder import automatic_bos
from rlpost.data.example import Example
from rlpost.data.records import Completion, Conversation, Document, Record
from rlpost.data.template import ChatTokenizer, tokens
from rlpost.errors import DataError, UserError

_VERSION = 1  # changes whenever the same document would get other tokens


class DocumentEncoder:
    """Turns documents into examples of which all tokens but the first are trained.

    Args:
        tokenizer: a transformers tokenizer.
        refuse_above: a document that is sure to have more tokens is refused before it is tokenized;
            None: none is.

    Raises:
        UserError: it has no end-of-sequence token.
    """

    accepts: ClassVar[tuple[type[Record], ...]] = (Document,)

    def __init__(self, tokenizer: ChatTokenizer, *, refuse_above: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._bound = TextBound(tokenizer=tokenizer, max_tokens=refuse_above)
        self._eos = end_of_sequence(tokenizer)
        self._before = automatic_bos(tokenizer)
        self.fingerprint = encoder_identity(tokenizer, kind="document", version=_VERSION)

    def encode(self, record: Record) -> list[Example]:
        """Return one example.

        Raises:
            RowTooLong: it is sure to have more than ``refuse_above`` tokens.
            DataError: the document is empty, or the tokenizer refuses it.
        """
        assert isinstance(record, Document), type(record)
        _require_text(record.text, "document", record.address)
        self._bound.require(record.text, address=record.address)
        ids = tokens(self._tokenizer, record.text, address=record.address)
        if ids[:1] != self._before:
            ids = [*self._before, *ids]
        return [_example(_ended(ids, self._eos), start=1, address=record.address)]


def text_example(
    tokenizer: Any, record: Conversation | Completion, *, stops: Stops, whole: bool
) -> Example:
    """Encode a completion for a model without a chat template.

    Args:
        tokenizer: a transformers tokenizer.
        record: a prompt and a completion that are both text.
        stops: none of these tokens may occur in the completion, except as its end.
        whole: whether the prompt is trained too.

    Raises:
        UserError: the tokenizer has no end-of-sequence token.
        DataError: the record has messages or tools, an empty text, or a completion that ends early
            or has characters that the tokenizer drops.
    """
    address = record.address
    prompt, completion = _texts(record)
    eos = end_of_sequence(tokenizer)
    completion = completion.removesuffix(tokenizer.eos_token)
    _require_text(prompt, "prompt", address)
    _require_text(completion, "completion", address)
    if (stop := stops.within(completion)) is not None:
        raise DataError(
            f"{address}: the completion contains {stop!r}, at which generation would stop; remove "
            "it from the text"
        )
    encode = partial(tokens, tokenizer, address=address)
    before = automatic_bos(tokenizer)
    if encode(prompt)[:1] == before:
        before = []
    joined = continued(tokenizer, prompt, completion, encode=encode, address=address, before=before)
    require_readable(decoded(tokenizer, joined.ids[joined.start :]), completion, where=address)
    return _example(_ended(joined.ids, eos), start=1 if whole else joined.start, address=address)


def end_of_sequence(tokenizer: Any) -> int:
    """Return the tokenizer's end-of-sequence token.

    Raises:
        UserError: it has none.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the model's tokenizer names no end-of-sequence token, so nothing would teach the "
            "model where a text ends; set eos_token in tokenizer_config.json"
        )
    number: int = tokenizer.eos_token_id
    return number


def _texts(record: Conversation | Completion) -> tuple[str, str]:
    if (
        isinstance(record, Completion)
        and isinstance(record.prompt, str)
        and isinstance(record.completion, str)
        and not record.tools
    ):
        return record.prompt, record.completion
    raise DataError(
        f"{record.address}: the row has messages, a system message or tools, but the model's "
        "tokenizer has no chat template; use rows whose prompt and completion are plain "
        "strings, or a chat model"
    )


def _require_text(text: str, name: str, address: str) -> None:
    if not text.strip():
        raise DataError(f"{address}: the {name} is empty; leave the row out")


def _ended(ids: Sequence[int], eos: int) -> list[int]:
    return [*ids] if ids[-1] == eos else [*ids, eos]


def _example(ids: Sequence[int], *, start: int, address: str) -> Example:
    trained = np.zeros(len(ids), np.bool_)
    trained[start:] = True
    return Example(ids=np.array(ids, np.int32), trained=trained, address=address)
