"""Reads the tokenizer of a model directory and checks that it belongs to the model.

Owns loading it and its chat template's syntax. Refuses to own the rendering of prompts
(data/encoder.py).
"""

from pathlib import Path
from typing import Any

from rlpost.errors import UserError
from rlpost.models.directory.read_errors import reading_model

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "spiece.model")


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory holds the files of one."""
    return any((directory / name).is_file() for name in _FILES)


def read_tokenizer(directory: Path, config: Any, *, field: str) -> Any:
    """Return the tokenizer, checked against the model's ``config``.

    Raises:
        UserError: there is no tokenizer, it is of another model, or its template cannot be used.
    """
    from transformers import AutoTokenizer

    if not has_tokenizer(directory):
        raise UserError(
            f"{field}: {directory} holds no tokenizer (none of {', '.join(_FILES)}); copy the "
            "tokenizer's files of the same model there, or save it with save_pretrained()"
        )
    with reading_model(f"{field}: the tokenizer in {directory} cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
        ids = tokenizer.get_vocab().values()
        largest, count = max(ids, default=-1), len(ids)
    _refuse_other_vocabulary(directory, config, largest=largest, count=count, field=field)
    _refuse_unusable_template(tokenizer, directory, field=field)
    return tokenizer


def _refuse_other_vocabulary(
    directory: Path, config: Any, *, largest: int, count: int, field: str
) -> None:
    text = config.get_text_config()
    rule = f"{field}: the tokenizer in {directory} is not this model's: "
    way_out = "; copy the tokenizer's files of the same model there"
    if largest >= text.vocab_size:
        raise UserError(
            f"{rule}its ids go up to {largest}, and the model has {text.vocab_size} embeddings "
            f"(`vocab_size` in config.json){way_out}"
        )
    if count < text.vocab_size // 2:
        raise UserError(
            f"{rule}it knows {count} tokens, and the model has {text.vocab_size} embeddings"
            f"{way_out}"
        )
    ends = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
    unknown = [token for token in ends if token is not None and not 0 <= token <= largest]
    if unknown:
        raise UserError(
            f"{rule}config.json names {unknown[0]} as its `eos_token_id`, and the tokenizer's ids "
            f"go up to {largest}{way_out}, or correct `eos_token_id`"
        )


def _refuse_unusable_template(tokenizer: Any, directory: Path, *, field: str) -> None:
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template = tokenizer.chat_template
    if template is None:
        return
    texts = template if isinstance(template, dict) else {"chat_template": template}
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{field}: the chat template of the tokenizer in {directory} ({name}) is empty; "
                "write the model's template there, or remove it and use plain-text prompts"
            )
        try:
            _compile_jinja_template(text)
        except TemplateSyntaxError as error:
            raise UserError(
                f"{field}: line {error.lineno} of the chat template of the tokenizer in "
                f"{directory} ({name}) is no Jinja: {error.message}; use the template that the "
                "model was published with"
            ) from error
