"""Renders messages and tools as token ids, with a tokenizer's own chat template.

Owns the call of the template and the check that the rendered text contains the last message and
the tools. Refuses to own what may be in a message (messages.py). Invariant: whatever a template
raises becomes a ``DataError`` of the row that it was rendering.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from rlpost.data.boundary import refusal
from rlpost.data.messages import Messages
from rlpost.data.tools import COLUMN
from rlpost.errors import DataError


class ChatTokenizer(Protocol):
    """The methods of a transformers tokenizer that are used here."""

    chat_template: Any
    bos_token_id: Any

    def get_chat_template(self, chat_template: Any = None, tools: Any = None) -> str: ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...

    def __call__(self, text: Any, **options: Any) -> Any: ...


def render(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    address: str,
    add_generation_prompt: bool,
) -> list[int]:
    """Return the tokens of a conversation.

    Args:
        tokenizer: one with a chat template.
        messages: the conversation.
        tools: function schemas that the template must show.
        address: of the row, for errors.
        add_generation_prompt: whether the text ends where the assistant is to answer.

    Raises:
        DataError: the template raises an error, or leaves out tools or the last message.
    """
    rendered = partial(
        rendered_text, tokenizer, address=address, add_generation_prompt=add_generation_prompt
    )
    copied = [dict(message) for message in messages]
    text = rendered(copied, tools)
    require_tools(tokenizer, copied, tools, address=address)
    last = str(copied[-1].get("content") or "").strip()
    # A template may change the text of a message; it is refused only if it leaves the text out.
    if not text or (last not in text and _MARKER not in rendered(_marked(copied), tools).lower()):
        raise DataError(
            f"{address}: the model's chat template does not show the text of the last message; "
            "it may be empty, or expect a list of parts, which is not supported. Repair the "
            "template in the model's directory, or use another model"
        )
    return tokens(tokenizer, text, address=address)


def tokens(tokenizer: ChatTokenizer, text: str, *, address: str) -> list[int]:
    """Return the tokens of a text as it is, without any that the tokenizer adds around it.

    Raises:
        DataError: the tokenizer raises an error.
    """
    with refusal(
        address, "the text cannot be tokenized", way_out="change it, or leave the row out"
    ):
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def rendered_text(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    address: str,
    add_generation_prompt: bool,
) -> str:
    """Return what the template makes of a conversation, unchecked.

    Raises:
        DataError: the template raises an error.
    """
    with refusal(
        address,
        "the model's chat template refuses these messages",
        way_out="change the messages (or data.system_prompt), or use another model",
    ):
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=[dict(tool) for tool in tools] or None,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
        return text


_MARKER = "rlpost_text_"  # occurs in no other text


def _marked(messages: Messages) -> Messages:
    return [*messages[:-1], {**messages[-1], "content": _MARKER}]


def _renamed(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the tools under names that occur nowhere else in a text."""
    return [
        {**tool, "function": {**tool["function"], "name": _marker(index)}}
        for index, tool in enumerate(tools)
    ]


def _marker(index: int) -> str:
    return f"rlpost_tool_{index}_"


def require_tools(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    *,
    address: str,
) -> None:
    """Check that the template shows every one of ``tools`` beside ``messages``.

    Raises:
        DataError: names the first that it leaves out.
    """
    if not tools:
        return
    text = rendered_text(
        tokenizer, messages, _renamed(tools), address=address, add_generation_prompt=True
    )
    for index, tool in enumerate(tools):
        if _marker(index) not in text:
            raise DataError(
                f"{address}: the model's chat template does not show the function "
                f"{tool['function']['name']!r} of column {COLUMN!r}, so the model would not know "
                "of it; use a model whose template takes tools, or remove the column"
            )
