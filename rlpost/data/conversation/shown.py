"""Checks that a template shows all of an answer that is to be trained.

Owns the comparison of a message with its rendered text. Refuses to own prompts, whose last message
and tools template.py checks. Invariant: no content, reasoning or call of a trained message is left
out of the trained text without an error. Only white space may differ, because templates trim it.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from rlpost.data.conversation.stops import Stops
from rlpost.errors import DataError

# Keys under which data sets store what a model thinks before it answers.
REASONING = ("reasoning_content", "reasoning", "thinking")


def require_shown(message: Mapping[str, Any], text: str, *, stops: Stops, where: str) -> None:
    """Check that ``text`` shows the message's content, reasoning and calls.

    Args:
        message: one of the assistant.
        text: the rendered answer, up to its end-of-turn token.
        stops: none of its tokens may occur in the message.
        where: the message's address, for errors.

    Raises:
        DataError: the message is empty, a part is missing, or one has an end-of-turn token.
    """
    shown = _squeezed(text)
    if not any(part.strip() for _, part in text_parts(message)):
        raise DataError(
            f'{where}: the answer is empty; leave the row out, or mark the message with "weight": 0'
        )
    for name, part in text_parts(message):
        if (stop := stops.within(part)) is not None:
            raise DataError(
                f"{where}: its {name} contains {stop!r}, the token that ends a turn, so generation "
                "would stop there; remove it from the text, because the template adds it"
            )
        if _squeezed(part) not in shown:
            raise DataError(
                f"{where}: the model's chat template does not show its {name} "
                f"({part.strip()!r:.60}), so it would not be trained; {_way_out(name)}"
            )
    for name, forms in _values(message):
        if not any(_squeezed(form) in shown for form in forms):
            raise DataError(
                f"{where}: the model's chat template does not show {name} of its tool calls "
                f"({forms[0]!r:.60}), so it would not be trained; {_way_out('tool_calls')}"
            )


def require_readable(read: str, text: str, *, where: str) -> None:
    """Check that the tokens of an answer read as its text.

    A tokenizer drops characters whose bytes its vocabulary lacks. White space and forms of one
    character (Unicode's NFKC) may differ, because tokenizers normalize them.

    Args:
        read: the tokens of the answer, decoded.
        text: what was tokenized.
        where: the message's address, for errors.

    Raises:
        DataError: they differ.
    """
    kept, wanted = (_squeezed(unicodedata.normalize("NFKC", each)) for each in (read, text))
    if kept == wanted:
        return
    at = shared_length(kept, wanted)
    raise DataError(
        f"{where}: the tokenizer does not keep the text of the answer: {wanted[at : at + 20]!a} "
        f"became {kept[at : at + 20]!a}; remove characters that the model does not know, or leave "
        "the row out"
    )


def text_parts(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the texts of a message: content, reasoning, names of called functions, each by name."""
    for key in ("content", *REASONING):
        value = message.get(key)
        if isinstance(value, str):
            yield key, value
    for call in message.get("tool_calls") or ():
        yield "tool_calls", call["function"]["name"]


def _values(message: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield each value of the calls' arguments, with the forms in which templates write it."""
    for call in message.get("tool_calls") or ():
        for key, value in call["function"].get("arguments", {}).items():
            yield f"argument {key!r}", [key]
            for leaf in _leaves(value):
                yield f"argument {key!r}", _forms(leaf)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _forms(leaf: Any) -> list[str]:
    if not isinstance(leaf, str):
        return [json.dumps(leaf), str(leaf)]
    escaped = [json.dumps(leaf, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)]
    again = [json.dumps(each, ensure_ascii=False)[1:-1] for each in escaped]  # JSON within JSON
    return [leaf, *escaped, *again, repr(leaf)[1:-1]]


def shared_length(a: str, b: str) -> int:
    """Return how many characters both texts begin with."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((at for at, (x, y) in pairs if x != y), min(len(a), len(b)))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _way_out(name: str) -> str:
    if name in REASONING:
        return (
            "write it into the content as the model writes it, such as "
            "'<think>...</think>answer', remove the key, or use a template that shows it"
        )
    return "use a model whose template shows it, or leave the row out"
