"""Tokens that only the chat template may write: those that tell who speaks and where a turn ends.

Owns which they are, and the refusal of messages whose text contains one. Refuses to own answers,
where the tokens that end a turn are refused (shown.py) and others may be what the model writes.
Invariant: no message that is given to the model can pass for another speaker's turn.

A tokenizer reads the name of a special token in any text as that token, so a question that contains
``<|im_end|>`` would end there. Tokens that the template does not write, such as those of filling in
code, are left alone.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from rlpost.data.conversation.shown import text_parts
from rlpost.data.messages import Messages
from rlpost.data.template import rendered_text
from rlpost.errors import DataError

_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def control_tokens(tokenizer: Any, *, stops: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the special tokens that the chat template writes, and of ``stops``."""
    template = tokenizer.chat_template
    if template is None:
        return ()
    texts = [*template.values()] if isinstance(template, dict) else [template]
    with suppress(DataError):  # a template that refuses the probe is read as text alone
        texts.append(rendered_text(tokenizer, _PROBE, address="probe", add_generation_prompt=True))
    special = {str(each) for each in tokenizer.added_tokens_decoder.values() if each.special}
    written = {name for name in special if name and any(name in text for text in texts)}
    return tuple(sorted(written | {name for name in stops if name in special}))


def require_no_control(messages: Messages, tokens: tuple[str, ...], *, address: str) -> None:
    """Check the text of every message that is not an answer.

    Raises:
        DataError: it contains one of ``tokens``.
    """
    for index, message in enumerate(messages):
        if message.get("role") == "assistant":
            continue
        for name, part in text_parts(message):
            found = next((each for each in tokens if each in part), None)
            if found is not None:
                raise DataError(
                    f"{address}: message {index}: its {name} contains {found!r}, a token that the "
                    "chat template alone may write, because the model would read it as the "
                    "beginning or end of a turn; remove it, or write it in another way, such as "
                    f"{found[0]} {found[1:]}"
                )
