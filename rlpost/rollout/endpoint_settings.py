"""The options of a model that answers elsewhere, behind an OpenAI-compatible endpoint.

Owns their declaration and the rules between them. Invariant: no option holds a secret, because
options are written to disk; the key is named by its environment variable alone.
"""

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from rlpost.bounds import WEEK_S, number, option
from rlpost.errors import UserError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(kw_only=True)
class EndpointConfig:
    """Who answers in place of a local model: chat completions over HTTP."""

    url: str | None = option(
        None, help="base of an OpenAI-compatible API, such as http://host:8000/v1; null: none"
    )
    model: str | None = option(None, help="what the endpoint calls the model")
    api_key_env: str | None = option(
        None, help="environment variable that holds the key; null: no key is sent"
    )
    concurrency: int = number(32, at_least=1, at_most=10**4, help="requests under way at once")
    timeout_s: float = number(
        300.0, above=0, at_most=WEEK_S, help="deadline of one request, from its start to its answer"
    )

    def check(self, path: str) -> None:
        """Raises UserError: there is no such address, no model, or no key where one is named."""
        if self.url is None:
            if self != EndpointConfig():
                raise UserError(f"{path}.* has no effect without {path}.url; set it, or leave out")
            return
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"{path}.url must be the base of an API, such as http://host:8000/v1, got "
                f"{parts.scheme!r:.20} as its scheme"
            )
        if parts.username or parts.password or parts.query:
            raise UserError(
                f"{path}.url must hold no secret, because options are written to disk; put the key "
                f"into an environment variable and name it in {path}.api_key_env"
            )
        if not self.model:
            raise UserError(f"{path}.model must be what {self.url} calls its model")
        name = self.api_key_env
        if name is not None and not _VARIABLE.fullmatch(name):
            raise UserError(
                f"{path}.api_key_env must be the name of an environment variable, such as "
                "OPENAI_API_KEY, and not the key itself"
            )
        if name is not None and not os.environ.get(name):
            raise UserError(
                f"{path}.api_key_env={name}: there is no such variable in the environment, or it "
                f"is empty; set it, as in `export {name}=...`"
            )

    @property
    def key(self) -> str | None:
        """The key; None: there is none."""
        return None if self.api_key_env is None else os.environ[self.api_key_env]
