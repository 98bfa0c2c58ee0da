"""Joins the tokens of a given text with those of the text that continues it.

Owns where the first ends and the second begins. Refuses to own what the texts are. Invariant: the
result begins with exactly the tokens that the given text has by itself, because these are what a
model is given when it generates.

The tokens of the whole text need not begin with those of its first part: with GPT-2's rules two
line feeds are one token at the end of a text and two before a word, and a merge may join the last
character of a prompt with the first of the answer. Then both parts are tokenized by themselves,
which is right if they read as the whole text does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.data.conversation.segments import Encode
from rlpost.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Continued:
    """Tokens of a given text and its continuation.

    Attributes:
        ids: all tokens.
        start: how many belong to the given text.
        cut: whether the parts were tokenized by themselves.
    """

    ids: list[int]
    start: int
    cut: bool


def continued(
    tokenizer: Any,
    given: str,
    rest: str,
    *,
    encode: Encode,
    address: str,
    before: Sequence[int] = (),
) -> Continued:
    """Return the tokens of ``given`` followed by ``rest``.

    Args:
        tokenizer: a transformers tokenizer.
        given: what the model is given.
        rest: what follows it.
        encode: returns the tokens of a text.
        address: of the row, for errors.
        before: tokens in front of the text, such as the beginning-of-sequence token.

    Raises:
        DataError: the texts cannot be tokenized, or their tokens by themselves do not read as the
            whole text.
    """
    first = [*before, *encode(given)]
    whole = [*before, *encode(given + rest)]
    if whole[: len(first)] == first:
        return Continued(ids=whole, start=len(first), cut=False)
    whole_text = decoded(tokenizer, whole)
    for front in _FRONTS:
        parts = [*first, *_behind(front, rest, encode)]
        if decoded(tokenizer, parts) == whole_text:
            return Continued(ids=parts, start=len(first), cut=True)
    raise DataError(
        f"{address}: the tokenizer joins the end of the prompt {given[-20:]!r} with the beginning "
        f"of the answer {rest[:20]!r}, and cannot encode the answer by itself; change these "
        "characters, or leave the row out"
    )


# SentencePiece's rules put a space before every text, but not between a line feed and a text.
_FRONTS = ("", "\n")


def _behind(front: str, rest: str, encode: Encode) -> list[int]:
    """Return the tokens that ``rest`` has after ``front``."""
    return encode(front + rest)[len(encode(front)) if front else 0 :]


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of ``ids``, special tokens included."""
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
