"""Who may ask the server: the token, where it comes from, and the guard in front of every path.

Owns both. Refuses to own the address (network.py). Invariants: the token is in no option, file,
message or log of ours; with a token every path but ``/health`` asks for it, also those that vLLM's
own check leaves open, such as ``/invocations`` and ``/tokenize``; beyond loopback there is one.
"""

import hashlib
import ipaddress
import json
import os
import re
import secrets
import socket
import stat
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from rlpost.errors import UserError
from rlpost.stages.serve.config import ServeSettings

OPEN = "/health"
_SHORTEST = 16  # characters of a token
_LONGEST_BYTES = 4096
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VLLM = "VLLM_API_KEY"
_NEW = "python -c 'import secrets; print(secrets.token_hex(32))'"

# With these, vLLM would let clients load adapters unseen, run code in the workers, name any model,
# or would log every answer.
_BACK_DOORS = (
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_SERVER_DEV_MODE",
    "VLLM_SKIP_MODEL_NAME_VALIDATION",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE",
)

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]


def read_token(cfg: ServeSettings) -> str | None:
    """Return the token that clients must send; None: there is none.

    Raises:
        UserError: it cannot be read, others can read it, it is too weak, or it is lacking where
            the server can be reached from elsewhere.
    """
    token = _from_file(cfg.token_file) if cfg.token_file else _from_environment(cfg.token_env)
    if token is None and not is_loopback(cfg.host):
        raise UserError(
            f"serve.host={cfg.host} can be reached from other machines, so clients must send a "
            f"token: put one that {_NEW} makes into a variable and give serve.token_env=NAME, or "
            "listen on 127.0.0.1"
        )
    if token is None and os.environ.get(_VLLM):
        raise UserError(
            f"{_VLLM} is set, and vLLM would ask for it on some paths only; give "
            f"serve.token_env={_VLLM} to ask for it on all of them, or unset it"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on ``host``.

    Raises:
        UserError: ``host`` is no address.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"serve.host must be an address of this machine, got {host!a:.100} ({error}); the "
            "default is 127.0.0.1"
        ) from error
    addresses = {str(each[4][0]).partition("%")[0] for each in found}
    return all(ipaddress.ip_address(each).is_loopback for each in addresses)


def _from_environment(name: str | None) -> str | None:
    if name is None:
        return None
    if not _VARIABLE.fullmatch(name):
        raise UserError(
            "serve.token_env must be the name of an environment variable, such as SERVE_TOKEN, and "
            "not the token itself, which everybody on this machine could read"
        )
    if not os.environ.get(name):
        raise UserError(
            f"serve.token_env={name}: there is no such variable in the environment, or it is "
            f"empty; set it, as in export {name}=$({_NEW})"
        )
    return _sound(os.environ[name], f"serve.token_env={name}")


def _from_file(named: str) -> str:
    place = Path(named).expanduser()
    field = f"serve.token_file={named}"
    try:
        with place.open("rb") as file:
            about = os.fstat(file.fileno())
            text = file.read(_LONGEST_BYTES) if stat.S_ISREG(about.st_mode) else None
    except OSError as error:
        raise UserError(f"{field} cannot be read: {error.strerror}") from error
    if text is None:
        raise UserError(f"{field} must be a file")
    if about.st_mode & 0o077:
        raise UserError(
            f"{field} has the permissions {stat.S_IMODE(about.st_mode):04o}, so that others can "
            f"read or change it; chmod 600 {named}"
        )
    return _sound(text.decode("utf-8", "replace").strip(), field)


def _sound(token: str, field: str) -> str:
    """Return a token that a header can carry, and that cannot be guessed."""
    if len(token) < _SHORTEST or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UserError(
            f"{field}: a token must have at least {_SHORTEST} characters, all of them printable "
            f"ASCII without spaces; {_NEW} makes one"
        )
    return token


class TokenGuard:
    """An ASGI middleware that lets nobody pass without the token, save to ``/health``."""

    def __init__(self, app: App, *, token: str) -> None:
        self._app = app
        self._digest = hashlib.sha256(token.encode()).digest()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        asks = scope["type"] in ("http", "websocket") and scope["path"] != OPEN
        if not asks or self._is_known(scope["headers"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(send)

    def _is_known(self, headers: Any) -> bool:
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        return scheme.lower() == b"bearer" and secrets.compare_digest(digest, self._digest)


async def _refuse(send: Callable[[Message], Awaitable[None]]) -> None:
    said = "the token is missing or wrong; send the header Authorization: Bearer TOKEN"
    error = {"message": said, "type": "AuthenticationError", "param": None, "code": 401}
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    body = json.dumps({"error": error}).encode()
    await send({"type": "http.response.body", "body": body})


def close_back_doors() -> None:
    """Set what vLLM reads when it is imported, so that no check can be passed by."""
    for name in _BACK_DOORS:
        os.environ[name] = "0"
    # Its children begin anew: this process may have threads, of which a copy would have none.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
