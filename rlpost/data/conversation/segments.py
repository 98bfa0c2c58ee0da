"""The tokens of texts that share long beginnings, such as the prompts of one conversation.

Owns a memory of the tokens between special tokens, so that a conversation of n answers is tokenized
about twice and not 2n times. Refuses to own which texts these are. Invariant: the tokens are those
of the whole text, because a tokenizer splits a text at its added tokens first; where one has rules
that look beyond them, which the longest text shows, every text is tokenized as a whole.
"""

import re
from collections.abc import Callable
from typing import Any

from rlpost.data.template import tokens

Encode = Callable[[str], list[int]]


def added_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Return a pattern of the names of all tokens that were added to the vocabulary."""
    names = sorted({str(each) for each in tokenizer.added_tokens_decoder.values()} - {""}, key=len)
    return re.compile("|".join(map(re.escape, reversed(names))) or r"(?!)")


def segment_encoder(
    tokenizer: Any, pattern: re.Pattern[str], *, longest: str, address: str
) -> Encode:
    """Return a function from texts to tokens that remembers what lies between added tokens.

    Args:
        tokenizer: a transformers tokenizer.
        pattern: of its added tokens.
        longest: a text that is tokenized both ways; if they differ, nothing is remembered.
        address: of the row, for errors.

    Raises:
        DataError: the tokenizer refuses the text.
    """
    known: dict[str, list[int]] = {}

    def whole(text: str) -> list[int]:
        return tokens(tokenizer, text, address=address)

    def segmented(text: str) -> list[int]:
        ids: list[int] = []
        for segment in _segments(text, pattern):
            if segment not in known:
                known[segment] = whole(segment)
            ids += known[segment]
        return ids

    return segmented if segmented(longest) == whole(longest) else whole


def _segments(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Example: ``["<|user|>", "2 + 2?", "<|end|>"]``."""
    found, at = [], 0
    for match in pattern.finditer(text):
        found += [text[at : match.start()], match[0]]
        at = match.end()
    return [each for each in (*found, text[at:]) if each]
