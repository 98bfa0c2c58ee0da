"""vLLM's AsyncLLM: how it is booted, and how its death is told.

Owns the names of its failures. Refuses to own its arguments (arguments.py), requests
(sampler.py, stages/serve/) and what a push does (whole_pushes.py, adapter_pushes.py).
Invariant: whichever verb is the first to learn that the engine is dead, or about to be, says so as
``ProcessDied``.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rlpost.errors import ProcessDied, PushEnded
from rlpost.garbage import without_collection
from rlpost.rollout.generator_config import AdapterCapacity, EngineConfig
from rlpost.rollout.pushes import Admitted
from rlpost.rollout.vllm.arguments import Sampling, engine_arguments, set_environment
from rlpost.weights.manifest import Shape
from rlpost.weights.transports.protocol import Locator


class VllmEngine:
    """One engine, from its boot to its end.

    Args:
        cfg: its settings, resolved.
        model_path: directory in Hugging Face layout.
        weight_backend: vLLM weight-transfer backend; ``rlpost`` is ``weights/vllm_plugin.py``.
        adapters: how many it must hold; None: it serves the model alone.
        start: makes the ``AsyncLLM`` of its arguments.
        sampling: what requests get that do not say how they are sampled.
        blank: it reads no weights, because they are pushed before anything is asked.
        output: where the words of its processes go; None: where Ray keeps those of an actor.
    """

    def __init__(
        self,
        cfg: EngineConfig,
        *,
        model_path: str,
        weight_backend: str,
        adapters: AdapterCapacity | None,
        start: Callable[[Any], Any],
        sampling: Sampling = Sampling.policy,
        blank: bool = False,
        output: str | None = None,
    ) -> None:
        self._cfg = cfg
        self._model_path = model_path
        self._weight_backend = weight_backend
        self._adapters = adapters
        self._start = start
        self._sampling = sampling
        self._blank = blank
        self._output = output
        self._num_scored = 0
        self.started: Any = None  # None before the boot and after the end
        self._sockets: tempfile.TemporaryDirectory[str] | None = None

    @property
    def running(self) -> Any:
        if self.started is None:  # a member may leave in the middle of a push
            raise ProcessDied("this generator is closed")
        return self.started

    def boot(self, model: Mapping[str, Shape]) -> Any:
        """Start the engine for a model of these tensors; return the model's configuration."""
        self._sockets = set_environment(self._cfg)
        with its_death_named(output=self._output), without_collection():
            arguments = engine_arguments(
                self._cfg,
                model_path=self._model_path,
                model=model,
                weight_backend=self._weight_backend,
                adapters=self._adapters,
                sampling=self._sampling,
                blank=self._blank,
            )
            self.started = self._start(arguments)
        return self.started.model_config

    async def ask(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call a verb that cannot fail while the engine lives."""
        with its_death_named():
            return await getattr(self.running, verb)(*args, **options)

    async def offer(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call a verb that may refuse a payload; the engine itself survives that.

        Raises:
            WeightPushError: it was refused.
        """
        try:
            return await self.ask(verb, *args, **options)
        except ProcessDied:
            raise
        except Exception as error:  # the worker's exception arrives as a plain Exception
            raise PushEnded.or_refusal(str(error)) from error

    async def generate(
        self, token_ids: list[int], params: Any, admitted: Admitted
    ) -> AsyncIterator[Any]:
        """Yield the outputs of a request."""
        from vllm.inputs import TokensPrompt
        from vllm.lora.request import LoRARequest

        prompt = TokensPrompt(prompt_token_ids=token_ids, cache_salt=admitted.salt)
        adapter = None
        if admitted.adapter is not None:
            # Its path is never read: the engine holds every adapter that a request may name.
            adapter = LoRARequest(admitted.salt, admitted.adapter, "in memory")
        with its_death_named():
            async for output in self.running.generate(
                prompt, params, admitted.request_id, lora_request=adapter
            ):
                yield output

    async def score(
        self, sequences: Sequence[Sequence[int]], *, adapter: int | None
    ) -> list[list[float]]:
        """Return the log-prob, in nats, of every token after the first of each sequence.

        Args:
            sequences: token ids.
            adapter: id of one that the engine holds; None: of the model alone.
        """
        found = []
        for ids in sequences:
            self._num_scored += 1
            admitted = Admitted(
                request_id=f"score{self._num_scored}", version=adapter or 0, adapter=adapter
            )
            async for output in self.generate(list(ids), scoring(), admitted):
                final = output
            found.append(scores(ids, final))
        return found

    async def shut_down(self) -> None:
        engine, self.started = self.started, None
        try:
            if engine is not None:
                with its_death_named():
                    # shutdown hangs on running requests
                    await engine.pause_generation(mode="abort")
        finally:
            if engine is not None:
                engine.shutdown()
            if self._sockets is not None:
                self._sockets.cleanup()

    async def receive_model(self, locator: Locator, *, first_rank: int) -> None:
        """Load a whole model in every worker as it arrives, each part once it is verified."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        info = {"transport": locator.transport, "manifest": locator.manifest}
        per_worker = [
            {**info, "where": {**locator.where, "rank": first_rank + worker}}
            for worker in range(self._cfg.tensor_parallel_size)
        ]
        request = WeightTransferUpdateRequest(update_info=per_worker)
        await self.offer("update_weights", request)

    # -- adapters: see ``adapter_pushes.AdapterHolder`` -----------------------------------

    async def receive_adapter(self, locator: Locator, *, first_rank: int) -> None:
        sent = (locator.transport, locator.manifest, locator.where, first_rank)
        await self.offer("collective_rpc", "rlpost_receive_adapter", args=sent)

    async def load_adapter(self, version: int, *, keep: Sequence[int]) -> None:
        await self.offer("collective_rpc", "rlpost_load_adapter", args=(version, list(keep)))

    async def keep_adapters(self, keep: Sequence[int]) -> None:
        await self.ask("collective_rpc", "rlpost_keep_adapters", args=(list(keep),))

    async def abort(self, request_ids: Iterable[str]) -> None:
        await self.ask("abort", list(request_ids))


def start_engine(arguments: Any, *, listeners: Sequence[Any] | None = None) -> Any:
    """Return the ``AsyncLLM`` of its arguments; None: vLLM's own metrics listen."""
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(
        arguments, stat_loggers=None if listeners is None else list(listeners)
    )


def scoring() -> Any:
    """Return the ``SamplingParams`` of a request that asks for the log-probs of its prompt."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=1.0,
        prompt_logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def scores(ids: Sequence[int], output: Any) -> list[float]:
    """Return the log-prob of every token of a prompt after its first, from a final output."""
    return [
        position[token].logprob
        for token, position in zip(ids[1:], output.prompt_logprobs[1:], strict=True)
    ]


@contextmanager
def its_death_named(*, output: str | None = None) -> Iterator[None]:
    """Any verb may be the first to learn that the engine is dead, or about to be."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise ProcessDied(f"vLLM engine died: {error}") from error
    except Exception as error:
        # How vLLM puts it when a worker dies in the middle of a call to all workers: its core
        # gives up waiting, and tells the caller in a plain Exception before it goes itself.
        if str(error).endswith("method failed: cancelled"):
            raise ProcessDied(f"a worker of vLLM died in a call: {error}") from error
        if "Engine core initialization failed" in str(error):
            where = output or (
                f"worker-*-{os.getpid()}.err, in session_latest/logs of Ray's temporary directory "
                "on its host"
            )
            raise ProcessDied(f"vLLM's engine did not come up; why is in {where}") from error
        raise
