"""Requests to an HTTP server that answers with JSON.

Owns the connection, deadlines and the bound of an answer's size. Refuses to own what an answer
means (endpoint.py, sglang/engine.py). Invariants: whatever is not a whole answer is an error and
never a value; each request has a deadline; redirects are not followed, so a key goes nowhere else.
"""

import json
from dataclasses import dataclass
from typing import Any

from rlpost.errors import NoAnswer

_MOST_BYTES = 2**26  # of an answer: that of a million tokens is far below


class Unanswered(NoAnswer):
    """There is no whole answer; says why."""


class TooLate(Unanswered):
    """The deadline of a request has passed."""


@dataclass(frozen=True, kw_only=True)
class HttpAnswer:
    """Example: ``HttpAnswer(status=200, text='{"id": 1}').json()``"""

    status: int
    text: str

    def json(self) -> Any:
        """Return its content.

        Raises:
            Unanswered: it is no JSON.
        """
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise Unanswered(f"an answer that is no JSON: {self.text}") from error


class HttpClient:
    """Made and used within one event loop.

    Args:
        key: sent as a bearer token; None: none is.
        timeout_s: deadline of a request that names none.
        connections: at once; 0: as many as there are requests.
        reused: whether connections are kept for later requests; a server that ends an idle one just
            then gives no answer, which costs more than a new one where the server is near.
        most_bytes: of one answer.
    """

    def __init__(
        self,
        *,
        key: str | None,
        timeout_s: float,
        connections: int = 0,
        reused: bool = True,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        import aiohttp

        self._most_bytes = most_bytes
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            connector=aiohttp.TCPConnector(limit=connections, force_close=not reused),
        )

    async def close(self) -> None:
        await self._session.close()

    async def ask(
        self, method: str, url: str, body: Any = None, *, timeout_s: float | None = None
    ) -> HttpAnswer:
        """Send one request.

        Raises:
            TooLate: it missed its deadline.
            Unanswered: there is no connection, or more than memory should hold.
        """
        import aiohttp

        options: dict[str, Any] = {} if body is None else {"json": body}
        if timeout_s is not None:
            options["timeout"] = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, url, allow_redirects=False, **options
            ) as response:
                return HttpAnswer(status=response.status, text=await self._text(response))
        except TimeoutError as error:
            raise TooLate("no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unanswered(f"no connection ({type(error).__name__}: {error})") from error

    async def _text(self, response: Any) -> str:
        parts = bytearray()
        async for part in response.content.iter_any():
            parts += part
            if len(parts) > self._most_bytes:
                raise Unanswered(f"an answer of more than {self._most_bytes >> 20} MiB")
        return parts.decode(errors="replace")
