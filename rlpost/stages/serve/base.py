"""The base that a server serves, and what the engine has room for beside it.

Owns what an adapter is compared with. Refuses to own the comparison (servable.py). Invariant: it
can be read again from its three plain values, so that another process compares with the same.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlpost.errors import UserError
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.fingerprint import fingerprint_of
from rlpost.weights.adapter import adaptable


@dataclass(frozen=True, kw_only=True)
class ServedBase:
    """Example: ``ServedBase.read("models/smollm2", name="smollm2", template=None)``"""

    directory: ModelDirectory
    name: str  # as clients call it
    template: str | None  # text of the chat template; None: the tokenizer's own

    @classmethod
    def read(cls, path: str, *, name: str, template: str | None) -> "ServedBase":
        """Read the directory of a located model.

        Raises:
            UserError: it cannot be served.
        """
        return cls(directory=ModelDirectory.read(path), name=name, template=template)

    @cached_property
    def tokenizer(self) -> Any:
        return self.directory.tokenizer()

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensors of a checkpoint, by name."""
        return self.directory.checkpoint_shapes()

    @cached_property
    def layers(self) -> list[str]:
        """Last names of the layers to which the engine adds adapters."""
        return adaptable(self.shapes)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.directory.tensors)

    @property
    def chat_template(self) -> Any:
        """The template in use: text, texts by name, or None."""
        return self.tokenizer.chat_template if self.template is None else self.template


def read_template(named: str | None) -> str | None:
    """Return the text of ``serve.chat_template``.

    Raises:
        UserError: it cannot be read, or is no template.
    """
    if named is None:
        return None
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        text = Path(named).expanduser().read_text(encoding="utf-8")
        _compile_jinja_template(text)
    except OSError as error:
        raise UserError(f"serve.chat_template={named} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"serve.chat_template={named} is no UTF-8 text") from error
    except TemplateSyntaxError as error:
        raise UserError(
            f"serve.chat_template={named}: line {error.lineno} is no Jinja: {error.message}"
        ) from error
    if not text.strip():
        raise UserError(f"serve.chat_template={named} is empty; leave it out to use the base's")
    return text
