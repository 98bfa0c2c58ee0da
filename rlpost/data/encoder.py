"""Encodes the prompt of a row as tokens, in the format that the model was trained on.

Owns which messages and tools the prompt of a row consists of. Refuses to own where rows come
from, what happens to a bad one, and the template (template.py). Invariants: the tokens of a
chat prompt are those that the tokenizer's own template renders; a prompt never starts with two
beginning-of-sequence tokens.

A template may add text: SmolLM2's inserts a default system message unless the messages start
with one. A base model has no template: its prompts are encoded unchanged, with the
beginning-of-sequence token if the tokenizer adds one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.data.messages import SYSTEM_ROLES, Messages, check_messages
from rlpost.data.rows import Row, listed
from rlpost.data.system import COLUMN as SYSTEM
from rlpost.data.system import with_system
from rlpost.data.template import ChatTokenizer, render
from rlpost.data.tools import COLUMN as TOOLS
from rlpost.data.tools import Tools, check_tools
from rlpost.errors import DataError, UserError
from rlpost.types import Prompt


class PromptTooLong(DataError):
    """A prompt has more tokens than may be used."""


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What a row's prompt consists of, before it becomes tokens."""

    text: str  # for display
    is_text: bool  # the row's prompt is a string, not a list of messages
    conversation: Messages
    tools: Tools


class PromptEncoder:
    """Turns rows into ``Prompt`` with one tokenizer and one set of rules.

    Args:
        tokenizer: a transformers tokenizer.
        prompt_column: holds a string (for a chat model: one user message) or a list of
            messages ``{"role": ..., "content": ...}``.
        system_prompt: put before every prompt that has no system message of its own, which may
            also stand in the row's column ``system``.
        max_prompt_tokens: longer prompts are refused; None: no bound.

    Raises:
        UserError: a system prompt for a tokenizer without a chat template.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        prompt_column: str = "prompt",
        system_prompt: str | None = None,
        max_prompt_tokens: int | None = None,
    ) -> None:
        if system_prompt is not None and tokenizer.chat_template is None:
            raise UserError(
                "data.system_prompt is set, but the model's tokenizer has no chat template to "
                "put it in; remove it, write it into the prompts, or use a chat model"
            )
        self._tokenizer = tokenizer
        self._column = prompt_column
        self._system_prompt = system_prompt
        self._max_prompt_tokens = max_prompt_tokens
        self._plain_bos = automatic_bos(tokenizer)

    def encode(self, row: Row, *, uid: str) -> Prompt:
        """Return the row's prompt together with all other columns.

        Raises:
            PromptTooLong: more than ``max_prompt_tokens`` tokens.
            DataError: no prompt column, an empty prompt, malformed messages or tools, or
                content that the template rejects or leaves out.
        """
        content = self._content(row)
        if not content.text.strip():
            raise DataError(f"{row.address}: the prompt in column {self._column!r} is empty")
        is_chat = self._tokenizer.chat_template is not None
        token_ids = self._rendered(content, row) if is_chat else self._bare(content, row)
        self._check_tokens(token_ids, row.address)
        columns = {k: v for k, v in row.columns.items() if k != self._column}
        if TOOLS in columns:  # the column may be JSON text
            columns[TOOLS] = list(content.tools) or None
        return Prompt(
            uid=uid,
            token_ids=tuple(token_ids),
            text=content.text,
            messages=None if content.is_text else tuple(content.conversation),
            conversation=tuple(content.conversation) if is_chat else None,
            tools=content.tools,
            columns=columns,
            address=row.address,
        )

    def _content(self, row: Row) -> "_Content":
        value = self._prompt_value(row)
        tools = check_tools(row.columns.get(TOOLS), address=row.address)
        asked = value if self._column == SYSTEM else with_system(value, row)
        if isinstance(asked, str):
            asked = [{"role": "user", "content": asked}]
        messages = self._with_system(check_messages(asked, address=row.address))
        return _Content(
            text=value if isinstance(value, str) else _last_user_text(messages),
            is_text=isinstance(value, str),
            conversation=messages,
            tools=tools,
        )

    def _rendered(self, content: "_Content", row: Row) -> list[int]:
        return render(
            self._tokenizer,
            content.conversation,
            tools=content.tools,
            address=row.address,
            add_generation_prompt=True,
        )

    def _bare(self, content: "_Content", row: Row) -> list[int]:
        """Encode for a base model, which knows neither messages nor tools."""
        if not content.is_text or content.tools or len(content.conversation) > 1:
            what = "has a list of messages as its prompt"
            if content.is_text:
                what = "has tools" if content.tools else f"has a column {SYSTEM!r}"
            raise DataError(
                f"{row.address}: the row {what}, but the model's tokenizer has no chat template; "
                "use plain string prompts or a chat model"
            )
        ids = list(self._tokenizer(content.text, add_special_tokens=False)["input_ids"])
        # No end-of-sequence token, even if the tokenizer adds one, because the model continues.
        return ids if ids[:1] == self._plain_bos else [*self._plain_bos, *ids]

    def _prompt_value(self, row: Row) -> str | Sequence[Any]:
        if self._column not in row.columns:
            raise DataError(
                f"{row.address}: no column {self._column!r}; columns present: "
                f"{listed(row.columns)}; set data.prompt_column"
            )
        value = row.columns[self._column]
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value:
            return value
        what = "an empty list" if value == [] else f"{type(value).__name__}"
        raise DataError(
            f"{row.address}: column {self._column!r} must be a string or a list of messages, "
            f"got {what}"
        )

    def _with_system(self, messages: Messages) -> Messages:
        if self._system_prompt is None or messages[0]["role"] in SYSTEM_ROLES:
            return messages
        return [{"role": "system", "content": self._system_prompt}, *messages]

    def _check_tokens(self, token_ids: list[int], address: str) -> None:
        bos = self._tokenizer.bos_token_id
        if bos is not None and token_ids[:2] == [bos, bos]:
            raise DataError(
                f"{address}: the prompt starts with two beginning-of-sequence tokens; the chat "
                "template adds one, so remove it from the messages or from data.system_prompt"
            )
        limit = self._max_prompt_tokens
        if limit is not None and len(token_ids) > limit:
            raise PromptTooLong(
                f"{address}: the prompt has {len(token_ids)} tokens, at most {limit} fit; shorten "
                "it, raise data.max_prompt_tokens (bounded by the model's context minus the "
                "response length), or set data.on_long_prompt=skip"
            )


def _last_user_text(messages: Messages) -> str:
    users = [m for m in messages if m["role"] == "user"]
    return str((users or messages)[-1].get("content", ""))


def automatic_bos(tokenizer: ChatTokenizer) -> list[int]:
    """Return the beginning-of-sequence token if the tokenizer puts one before plain text."""
    bos = tokenizer.bos_token_id
    if bos is None or list(tokenizer("a")["input_ids"][:1]) != [bos]:
        return []
    return [bos]
