"""Where the steps of a sampled response end, in its tokens.

Owns the rule by which a process reward model reads a response as its training rows were read
(steps.py). The rule: a given text separates steps, and a step ends at the token in which its last
character that is no white space lies. Blank steps are none, but a response without text has one.
Invariant: the places depend on the response's tokens alone.
"""

from collections.abc import Sequence
from typing import Any

from rlpost.data.conversation.continuation import decoded

STEP_SEPARATOR = "\n"


def step_ends(tokenizer: Any, response_ids: Sequence[int], *, separator: str) -> list[int]:
    """Return the places in a response's tokens at which steps end, at least one.

    Special tokens such as the end of the turn are no text of a step.

    Example: the tokens of ``"6 * 7\\n= 42<|im_end|>"`` have two ends, those of ``7`` and ``2``.
    """
    special = set(tokenizer.all_special_ids)
    texts = ["" if each in special else decoded(tokenizer, [each]) for each in response_ids]
    return ends_in(texts, separator=separator)


def ends_in(texts: Sequence[str], *, separator: str) -> list[int]:
    """Return the same of tokens whose texts are given.

    Example: ``ends_in(["a", ".", "\\n", "b"], separator="\\n") == [1, 3]``
    """
    token_at = [number for number, text in enumerate(texts) for _ in text]
    ends: list[int] = []
    begun = 0
    for step in "".join(texts).split(separator):
        if written := len(step.rstrip()):
            ends.append(token_at[begun + written - 1])
        begun += len(step) + len(separator)
    return sorted(set(ends)) or [len(texts) - 1]
