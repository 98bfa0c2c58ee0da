"""vLLM's own OpenAI-compatible server, with adapters that were proved, and a guard in front.

Owns what is set differently from ``vllm serve``, and the count of each adapter's requests. Refuses
to own the paths of adapters (routes.py) and the engine (rollout/vllm/engine.py). Invariants: vLLM's
own way to load an adapter stays closed, because it would skip the checks; no request reaches the
engine with an adapter that it may not use, because the engine would look for it on disk, and end.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any

from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.launchers.launcher import serve_http
from vllm.exceptions import VLLMNotFoundError
from vllm.lora.request import LoRARequest
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.exceptions import EngineDeadError

from rlpost.control.served_adapters import NoSuchAdapter, ServedAdapter
from rlpost.stages.serve.access import TokenGuard
from rlpost.stages.serve.config import ServeSettings
from rlpost.stages.serve.loading import Loading
from rlpost.stages.serve.routes import AdapterCounts, add_routes

_END_S = 5  # in which open connections end with the server


class CountedClient:
    """The engine as vLLM's server sees it: requests of adapters are counted, and checked.

    Args:
        engine: ``AsyncLLM``.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self.loading: Loading | None = None
        self.told_to_end = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """See ``AsyncLLM.generate``."""
        outputs = self._engine.generate(
            prompt, sampling_params, request_id, lora_request=lora_request, **options
        )
        return self._counted(outputs, lora_request, request_id)

    def encode(
        self,
        prompt: Any,
        pooling_params: Any,
        request_id: str,
        lora_request: LoRARequest | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """See ``AsyncLLM.encode``."""
        outputs = self._engine.encode(prompt, pooling_params, request_id, lora_request, **options)
        return self._counted(outputs, lora_request, request_id)

    def shutdown(self, timeout: float | None = None) -> None:
        """End the engine after a signal, in a thread of its own; what runs is cut off first.

        vLLM's own shutdown leaves requests waiting for ever.
        """
        self.told_to_end = True
        ended = asyncio.run_coroutine_threadsafe(
            self._engine.pause_generation(mode="abort"), self._loop
        )
        with suppress(TimeoutError, EngineDeadError):
            ended.result(_END_S)
        self._engine.shutdown(timeout=timeout)

    def _counted(
        self, outputs: Any, lora_request: LoRARequest | None, request_id: str
    ) -> AsyncIterator[Any]:
        return outputs if lora_request is None else self._held(outputs, lora_request, request_id)

    async def _held(
        self, outputs: Any, lora_request: LoRARequest, request_id: str
    ) -> AsyncIterator[Any]:
        """Yield the outputs of a request, which is in its adapter meanwhile.

        Raises:
            VLLMNotFoundError: the adapter was unloaded since the request named it.
        """
        assert self.loading is not None
        try:
            adapter = self.loading.enter(lora_request.lora_int_id, request_id)
        except NoSuchAdapter as error:
            raise VLLMNotFoundError(f"{lora_request.lora_name}: {error}") from error
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        finally:
            self.loading.leave(adapter, request_id)


class ServedModels:
    """What requests may name, in vLLM's server; see ``loading.Directory``.

    Args:
        models: ``OpenAIServingModels``.
        base: what the base is called.
    """

    def __init__(self, models: Any, *, base: str) -> None:
        self._models = models
        self._base = base

    def offer(self, adapter: ServedAdapter) -> None:
        self._models.lora_requests[adapter.name] = LoRARequest(
            adapter.name, adapter.number, adapter.about["path"], self._base
        )

    def withdraw(self, adapter: ServedAdapter) -> None:
        self._models.lora_requests.pop(adapter.name, None)


class Server:
    """The application and what it listens on.

    Args:
        client: the engine.
        app: of FastAPI.
        models: what requests may name.
    """

    def __init__(self, *, client: CountedClient, app: Any, models: ServedModels) -> None:
        self._client = client
        self.app = app
        self.models = models

    @classmethod
    async def build(
        cls,
        engine: Any,
        *,
        model_path: str,
        base: str,
        cfg: ServeSettings,
        template: str | None,
        token: str | None,
    ) -> "Server":
        """Build vLLM's application around an engine.

        Args:
            engine: ``AsyncLLM``.
            model_path: directory of the base.
            base: what clients call it.
            cfg: address and deadlines.
            template: text of the chat template; None: the base's own.
            token: that clients must send; None: none.
        """
        args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
        args.model, args.served_model_name = model_path, [base]
        args.host, args.port = cfg.host, cfg.port
        args.chat_template = template
        args.allowed_origins = []  # else every page in a browser could ask
        args.api_key = None if token is None else [token]
        client = CountedClient(engine)
        tasks = await engine.get_supported_tasks()
        with _logging_kept():
            app = build_app(args, tasks, engine.model_config)
        await init_app_state(client, app.state, args, tasks)
        if token is not None:
            # In front of everything: vLLM has built its own stack already.
            app.middleware_stack = TokenGuard(app.middleware_stack, token=token)
        models = ServedModels(app.state.openai_serving_models, base=base)
        return cls(client=client, app=app, models=models)

    def attach(self, loading: Loading, *, drain_s: float) -> None:
        """Add the paths of adapters, and their counts to ``/metrics``."""
        from prometheus_client import REGISTRY

        self._client.loading = loading
        add_routes(self.app, loading, drain_s=drain_s)
        REGISTRY.register(AdapterCounts(loading))

    @property
    def told_to_end(self) -> bool:
        """Whether a signal came; else the engine died by itself."""
        return self._client.told_to_end

    async def run(self, sock: socket.socket) -> None:
        """Answer on a socket until a signal comes, or the engine dies."""
        host, port = sock.getsockname()[:2]
        ending = await serve_http(
            self.app,
            sock=sock,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_END_S,
        )
        await ending


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Undo what a library does when vLLM's application is built: it silences all logs."""
    root = logging.getLogger()
    levels = {each: each.level for each in (root, *root.handlers)}
    try:
        yield
    finally:
        for each, level in levels.items():
            each.setLevel(level)
