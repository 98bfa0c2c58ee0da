"""A model behind an OpenAI-compatible endpoint, asked as a ``Dispatcher`` asks generators.

Owns the requests and what counts as an answer. Refuses to own retries and what a prompt that
cannot be answered costs (collector.py). Invariants: whatever is not a whole answer is a failure and
never a text: an empty one, one without an end, one that is no JSON; the key is in no message and in
no file; each request has a deadline.

Each response is a request of its own with its own seed, as many servers know no ``n``; so a failure
costs one response, and the others of the prompt are kept for the next attempt. What travels is
text, so the responses have no tokens.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rlpost.errors import NoAnswer, RunFailed
from rlpost.rollout.endpoint_settings import EndpointConfig
from rlpost.rollout.http_client import HttpClient, TooLate, Unanswered
from rlpost.types import Episode, GenerationRequest

FIELD = "endpoint.url"
_SEEDS = 2**31  # servers that count with 32 bits take these
_MISTAKES = {
    401: "the key is missing or wrong; see endpoint.api_key_env",
    403: "the key may not use this model; see endpoint.api_key_env",
    404: "there is no such path or model; see endpoint.url and endpoint.model",
}
_ENDS = ("stop", "length")
_SHOWN = 300  # characters of a server's words


@dataclass(kw_only=True)
class Endpoint:
    """Answers requests; use as an asynchronous context manager.

    Example::

        async with Endpoint(cfg=cfg.endpoint) as endpoint:
            episodes = await endpoint.generate(request)
    """

    cfg: EndpointConfig
    _client: HttpClient | None = None
    _free: asyncio.Semaphore = field(init=False)
    _done: dict[str, dict[int, Episode]] = field(default_factory=dict)  # of prompts under way

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.cfg.concurrency)

    async def __aenter__(self) -> "Endpoint":
        self._client = HttpClient(
            key=self.cfg.key, timeout_s=self.cfg.timeout_s, connections=self.cfg.concurrency
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._client is not None
        await self._client.close()

    async def require_answers(self) -> None:
        """Ask for one token, so that an endpoint that cannot answer ends the run at once.

        Raises:
            RunFailed: it does not answer, or with something else than a chat completion.
        """
        hello = [{"role": "user", "content": "Hello"}]
        try:
            answer = await self._posted(
                {"model": self.cfg.model, "messages": hello, "max_tokens": 1}
            )
            if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
                raise self._refused(f"an answer that is no chat completion: {json.dumps(answer)}")
        except NoAnswer as error:
            raise RunFailed(
                f"{error}; see whether the server is up and speaks the OpenAI API there; the same "
                "command goes on with what is not answered yet"
            ) from error

    async def generate(
        self,
        request: GenerationRequest,
        *,
        alone: bool = False,
        on_start: Callable[[int], None] = lambda version: None,
    ) -> tuple[Episode, ...]:
        """Sample every response of a request; ``alone`` has no meaning here.

        Raises:
            NoAnswer: one of them is missing; it may succeed later, and the others are kept.
            RunFailed: the endpoint refuses all requests.
        """
        on_start(0)
        done = self._done.setdefault(request.key, {})
        wanted = [number for number in range(request.num_samples) if number not in done]
        results = await asyncio.gather(
            *(self._sampled(request, number) for number in wanted), return_exceptions=True
        )
        for number, result in zip(wanted, results, strict=True):
            if isinstance(result, Episode):
                done[number] = result
        for result in results:
            if isinstance(result, BaseException):
                raise result
        del self._done[request.key]
        return tuple(done[number] for number in range(request.num_samples))

    def cancel(self, key: str) -> Awaitable[list[int]]:
        """End nothing: a request is given up with its task."""

        async def nothing() -> list[int]:
            return []

        return nothing()

    async def _sampled(self, request: GenerationRequest, number: int) -> Episode:
        prompt, sampling = request.prompt, request.sampling
        messages = prompt.conversation or ({"role": "user", "content": prompt.text},)
        body: dict[str, Any] = {
            "model": self.cfg.model,
            "messages": [dict(message) for message in messages],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": (request.seed + number) % _SEEDS,
        }
        if prompt.tools:
            body["tools"] = [dict(tool) for tool in prompt.tools]
        async with self._free:
            text, end = _answer_in(await self._posted(body), self._refused)
        return Episode(
            uid=prompt.uid,
            sample=number,
            trajectories=(),
            finish_reason=end,
            text=text,
            seed=request.seed + number,
        )

    async def _posted(self, body: Mapping[str, Any]) -> Any:
        """Return the JSON of the answer."""
        assert self.cfg.url is not None and self._client is not None
        url = f"{self.cfg.url.rstrip('/')}/chat/completions"
        try:
            answer = await self._client.ask("POST", url, body)
            if answer.status in _MISTAKES:
                why = f"status {answer.status}: {_MISTAKES[answer.status]}: {answer.text}"
                raise RunFailed(str(self._refused(why)))
            if answer.status != 200:
                raise self._refused(f"status {answer.status}: {answer.text}")
            return answer.json()
        except TooLate as error:
            raise self._refused(
                f"no answer in endpoint.timeout_s={self.cfg.timeout_s:g}"
            ) from error
        except Unanswered as error:
            raise self._refused(str(error)) from error

    def _refused(self, what: str) -> NoAnswer:
        """Return the error of a request, without the key that servers like to repeat."""
        key = self.cfg.key
        said = " ".join((what if key is None else what.replace(key, "***")).split())
        return NoAnswer(f"{FIELD}={self.cfg.url}: {said:.{_SHOWN}}")


def _answer_in(answer: Any, refused: Callable[[str], NoAnswer]) -> tuple[str, str]:
    """Return the text and how it ended.

    Raises:
        NoAnswer: there is no whole text in the answer.
    """
    try:
        choice = answer["choices"][0]
        end, text = choice["finish_reason"], choice["message"]["content"]
    except (LookupError, TypeError) as error:
        raise refused(f"an answer that is no chat completion: {json.dumps(answer)}") from error
    if end not in _ENDS:
        raise refused(f"an answer that ended with finish_reason={end!r}, not with its text")
    if not isinstance(text, str) or not text.strip():
        raise refused(f"an answer without a text, which ended with finish_reason={end!r}")
    return text, end
