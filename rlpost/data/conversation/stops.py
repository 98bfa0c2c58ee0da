"""The tokens at which generation stops, which end every trained answer.

Owns the set and its texts. Refuses to own reading a model's generation_config.json (models/),
whose ``eos_token_id`` the caller passes. Invariant: the set is never empty.
"""

from collections.abc import Sequence
from typing import Any

from rlpost.data.conversation.continuation import decoded
from rlpost.errors import UserError


class Stops:
    """Token ids that end an answer.

    Args:
        tokenizer: its end-of-sequence token is one of them.
        extra: further ids, such as those of ``eos_token_id`` in generation_config.json.

    Raises:
        UserError: there is none.
    """

    def __init__(self, tokenizer: Any, extra: Sequence[int] = ()) -> None:
        own = tokenizer.eos_token_id
        self.ids = frozenset([*extra] if own is None else [own, *extra])
        if not self.ids:
            raise UserError(
                "the model's tokenizer names no end-of-sequence token, and generation_config.json "
                "no eos_token_id, so nothing would teach the model to stop; set eos_token in "
                "tokenizer_config.json"
            )
        self.texts = {number: decoded(tokenizer, [number]) for number in sorted(self.ids)}

    def first(self, ids: Sequence[int], *, start: int) -> int | None:
        """Return the place of the first stop token at or after ``start``, None without one."""
        return next((at for at in range(start, len(ids)) if ids[at] in self.ids), None)

    def last(self, ids: Sequence[int], *, end: int) -> int | None:
        """Return the place of the last stop token before ``end``, None without one."""
        return next((at for at in range(end - 1, -1, -1) if ids[at] in self.ids), None)

    def within(self, text: str) -> str | None:
        """Return the text of a stop token that occurs in ``text``, None without one."""
        return next((each for each in self.texts.values() if each and each in text), None)

    def before_first(self, text: str) -> str:
        """Return ``text`` up to the first stop token; all of it without one."""
        places = [text.index(each) for each in self.texts.values() if each and each in text]
        return text[: min(places, default=len(text))]

    def __str__(self) -> str:
        """Example: ``'<|im_end|>', '<|endoftext|>'``."""
        return ", ".join(repr(text) for text in self.texts.values())
