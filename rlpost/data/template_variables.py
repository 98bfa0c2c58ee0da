"""Variables of a chat template that the user fixes, such as ``enable_thinking=false`` of Qwen3.

Owns ``data.chat_template_kwargs``. Refuses to own rendering (template.py). Invariant: the values
are a part of the tokenizer's template, so that whatever renders with it, masks and identities
included, uses the same ones, and none can be forgotten.
"""

import json
import math
from typing import Any

from rlpost.errors import UserError

# Of the option that several stages have.
HELP = "variables of the chat template by name, such as enable_thinking: false of Qwen3"
# What rlpost or the tokenizer gives to every template.
_GIVEN = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
_GIVEN_SUFFIX = "_token"


def fix_template_variables(
    tokenizer: Any, variables: dict[str, Any], *, field: str = "data.chat_template_kwargs"
) -> None:
    """Write ``variables`` into the chat template of a tokenizer that is used in this run only.

    Args:
        tokenizer: a transformers tokenizer; changed.
        variables: values by name: text, numbers, booleans, null, and lists and dicts of these.
        field: where they were given, for errors.

    Raises:
        UserError: the template does not read one of them, or cannot be given it.
    """
    if not variables:
        return
    template = tokenizer.chat_template
    if template is None:
        raise UserError(
            f"{field}={variables} has no effect: the model's tokenizer has no chat template; "
            "remove it, or use a chat model"
        )
    texts = template if isinstance(template, dict) else {"chat_template": template}
    read = set().union(*map(_variables_of, texts.values()))
    for name in variables:
        _require_free(name, read, field=field)
    # A line feed behind a block is dropped, so the template begins a line, as it did.
    values = ((name, _literal(value, f"{field}.{name}")) for name, value in variables.items())
    prefix = "".join(f"{{% set {name} = {value} %}}\n" for name, value in values)
    written = {name: prefix + text for name, text in texts.items()}
    tokenizer.chat_template = written if isinstance(template, dict) else written["chat_template"]


def _variables_of(template: str) -> set[str]:
    """Return the names that a template reads and does not set first."""
    from jinja2 import meta
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(template).environment
    return set(meta.find_undeclared_variables(environment.parse(template)))


def _require_free(name: str, read: set[str], *, field: str) -> None:
    if name in _GIVEN or name.endswith(_GIVEN_SUFFIX):
        raise UserError(
            f"{field}.{name} cannot be chosen, because every row or the tokenizer gives it; "
            "remove it"
        )
    if name not in read:
        free = sorted(
            each for each in read if each not in _GIVEN and not each.endswith(_GIVEN_SUFFIX)
        )
        known = f"the variables that it reads are {', '.join(free)}" if free else "it reads none"
        raise UserError(
            f"{field}.{name} has no effect: the model's chat template does not read it; {known}"
        )


def _literal(value: Any, field: str) -> str:
    """Return ``value`` as Jinja writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_literal(each, field) for each in value)}]"
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        entries = (f"{_literal(k, field)}: {_literal(v, field)}" for k, v in value.items())
        return f"{{{', '.join(entries)}}}"
    raise UserError(
        f"{field} must be text, a finite number, true, false, null, or a list or dictionary of "
        f"these, got {value!r:.80}"
    )
