"""Row -> prompt tokens, exactly as the model was taught to read them.

Owns the use of the chat template. Refuses to own where rows come from and what happens to
a refused one. Invariants: tokens of a chat prompt equal what the tokenizer's own template
renders; a prompt never starts with two beginning-of-sequence tokens.

A template may add text of its own: SmolLM2's inserts a default system message unless the
messages start with one. A base model has no template: its prompts are encoded as they
stand, with the beginning-of-sequence token if the tokenizer adds one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rlpost.data.rows import Row
from rlpost.errors import DataError, UserError
from rlpost.types import Prompt

ROLES = ("system", "developer", "user", "assistant", "tool")
Messages = list[dict[str, Any]]


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    chat_template: Any
    bos_token_id: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...

    def __call__(self, text: Any, **options: Any) -> Any: ...


class PromptTooLong(DataError):
    """A prompt has more tokens than may be used."""


class PromptEncoder:
    """Turns rows into ``Prompt`` with one tokenizer and one set of rules.

    Args:
        tokenizer: a transformers tokenizer.
        prompt_column: holds a string (for a chat model: one user message) or a list of
            messages ``{"role": ..., "content": ...}``.
        system_prompt: put before every prompt that does not start with a system message.
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
        self._plain_bos = _automatic_bos(tokenizer)

    def encode(self, row: Row, *, uid: str) -> Prompt:
        """Return the row's prompt; every other column travels with it.

        Raises:
            PromptTooLong: more than ``max_prompt_tokens`` tokens.
            DataError: no prompt column, an empty prompt, malformed messages, or messages
                that the template refuses.
        """
        value = self._prompt_value(row)
        if isinstance(value, str):
            messages, text = None, value
            conversation = self._with_system([{"role": "user", "content": value}])
        else:
            messages = self._with_system(check_messages(value, address=row.address))
            text, conversation = _last_user_text(messages), messages
        if not text.strip():
            raise DataError(f"{row.address}: the prompt in column {self._column!r} is empty")
        if self._tokenizer.chat_template is not None:
            token_ids = self._render(conversation, row.address)
        elif messages is None:
            token_ids = self._plain(text)
        else:
            raise DataError(
                f"{row.address}: the prompt is a list of messages, but the model's tokenizer has "
                "no chat template; use string prompts or a chat model"
            )
        self._check_tokens(token_ids, row.address)
        return Prompt(
            uid=uid,
            token_ids=tuple(token_ids),
            text=text,
            messages=None if messages is None else tuple(messages),
            columns={k: v for k, v in row.columns.items() if k != self._column},
            address=row.address,
        )

    def _prompt_value(self, row: Row) -> str | Sequence[Any]:
        if self._column not in row.columns:
            raise DataError(
                f"{row.address}: no column {self._column!r}; columns present: "
                f"{', '.join(map(str, row.columns)) or 'none'}; set data.prompt_column"
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
        if self._system_prompt is None or messages[0]["role"] in ("system", "developer"):
            return messages
        return [{"role": "system", "content": self._system_prompt}, *messages]

    def _render(self, conversation: Messages, address: str) -> list[int]:
        from jinja2.exceptions import TemplateError

        try:
            # return_dict=False: transformers 5 otherwise returns a BatchEncoding.
            ids: list[int] = self._tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError as error:
            raise DataError(
                f"{address}: the model's chat template refuses these messages: {error}"
            ) from error
        return ids

    def _plain(self, text: str) -> list[int]:
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        # No end-of-sequence token, even if the tokenizer would add one: the model goes on.
        return ids if ids[:1] == self._plain_bos else [*self._plain_bos, *ids]

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


def check_messages(value: Sequence[Any], *, address: str) -> Messages:
    """Return well-formed messages: known roles, text contents, not ending in an answer.

    Keys that are None are left out: columnar files fill every message with the union of
    all keys.

    Raises:
        DataError: says which message is wrong and how.
    """
    messages: Messages = []
    for index, message in enumerate(value):
        where = f"{address}: message {index}"
        if not isinstance(message, Mapping):
            raise DataError(f"{where} must be an object, got {type(message).__name__}")
        kept = {key: item for key, item in message.items() if item is not None}
        if kept.get("role") not in ROLES:
            raise DataError(
                f"{where}: role must be one of {', '.join(ROLES)}, got {kept.get('role')!r}"
            )
        if not isinstance(kept.get("content"), str) and not kept.get("tool_calls"):
            got = type(message.get("content")).__name__
            raise DataError(f"{where}: content must be a string, got {got}")
        messages.append(kept)
    if messages[-1]["role"] == "assistant":
        raise DataError(
            f"{address}: the last message is the assistant's; a prompt must end where the "
            "model is to answer"
        )
    return messages


def _last_user_text(messages: Messages) -> str:
    users = [m for m in messages if m["role"] == "user"]
    return str((users or messages)[-1].get("content", ""))


def _automatic_bos(tokenizer: ChatTokenizer) -> list[int]:
    bos = tokenizer.bos_token_id
    if bos is None or list(tokenizer("a")["input_ids"][:1]) != [bos]:
        return []
    return [bos]
