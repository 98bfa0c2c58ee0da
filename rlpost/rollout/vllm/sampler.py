"""vLLM as the engine of a generator: requests, scores and the verbs of a push.

Owns the translation between ``engine.Engine`` and vLLM's own words. Refuses to own boot and death
(engine.py) and kernels (weights/vllm_plugin.py). Invariants: log-probs are the sampler's own,
after temperature; each request is salted with its version, so a prefix cached under other weights
is never reused.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlpost.control.concurrency import Load
from rlpost.errors import RequestAborted
from rlpost.rollout.engine import Booted
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.rollout.pushes import Admitted
from rlpost.rollout.sampled import Sampled, VersionSpan
from rlpost.rollout.vllm.engine import VllmEngine, scores, scoring, start_engine
from rlpost.types import GenerationRequest
from rlpost.weights.kernel_digest import KernelDigest
from rlpost.weights.manifest import Shape
from rlpost.weights.transports.protocol import Locator


class VllmSampler:
    """See ``engine.Engine``; with ``adapters`` also ``adapter_pushes.AdapterHolder``.

    Args:
        cfg: engine settings, resolved.
        model_path: directory in Hugging Face layout.
        adapters: room for the adapters that are pushed; None: whole models are.
        blank: it reads no weights, because a whole model is pushed before anything is asked.
    """

    def __init__(
        self,
        cfg: GeneratorConfig,
        *,
        model_path: str,
        adapters: AdapterCapacity | None,
        blank: bool = False,
    ) -> None:
        assert adapters is None or not blank, "an adapter is nothing without its base"
        self._num_workers = cfg.tensor_parallel_size
        self._load = Load(kv_use=0.0, num_preempted=0)
        self.engine = VllmEngine(
            cfg,
            model_path=model_path,
            weight_backend="rlpost",
            adapters=adapters,
            blank=blank,
            start=self._start,
        )

    def _start(self, arguments: Any) -> Any:
        from rlpost.rollout.vllm.load import listener

        return start_engine(arguments, listeners=[listener(self._on_load)])

    def _on_load(self, load: Load) -> None:
        self._load = load

    async def boot(self, model: Mapping[str, Shape]) -> Booted:
        config = self.engine.boot(model)
        gpus = await self.engine.ask("collective_rpc", "rlpost_gpu")
        return Booted(
            max_model_len=config.max_model_len,
            dtype=str(config.dtype).removeprefix("torch."),
            num_receivers=self._num_workers,
            gpus=tuple(gpu for gpu in gpus if gpu is not None),
        )

    # -- requests -------------------------------------------------------------------------

    async def sample(self, request: GenerationRequest, admitted: Admitted) -> list[Sampled]:
        output = await self._run(request.prompt.token_ids, _sampling_params(request), admitted)
        children = sorted(output.outputs, key=lambda child: child.index)
        return [_sampled(child) for child in children]

    async def score(self, token_ids: Sequence[int], admitted: Admitted) -> list[float]:
        return scores(token_ids, await self._run(token_ids, scoring(), admitted))

    async def _run(self, token_ids: Sequence[int], params: Any, admitted: Admitted) -> Any:
        final = None
        async for output in self.engine.generate(list(token_ids), params, admitted):
            final = output
        if final is None or not final.finished:
            raise RequestAborted("vLLM ended a request without a result")
        return final

    async def abort(self, request_ids: Iterable[str]) -> None:
        await self.engine.abort(request_ids)

    # -- pushes: see ``engine.ModelHolder`` -----------------------------------------------

    async def sleep(self) -> None:
        # Level 1 would keep a copy on the host that the next push makes useless.
        await self.engine.ask("sleep", level=2, mode="abort")
        await self.engine.ask("collective_rpc", "rlpost_forget_kernels")

    async def bring_back(self, part: str) -> None:
        await self.engine.ask("wake_up", tags=[part])

    async def begin_update(self) -> None:
        await self.engine.ask("pause_generation", mode="keep", clear_cache=False)
        await self.engine.offer("start_weight_update")

    async def receive_model(self, locator: Locator, *, first_rank: int) -> None:
        await self.engine.receive_model(locator, first_rank=first_rank)

    async def load_model(self, version: int) -> None:
        await self.engine.offer("finish_weight_update", weight_version=str(version))

    async def resume(self) -> None:
        await self.engine.ask("resume_generation")

    async def commit_model(self) -> None:
        await self.engine.ask("collective_rpc", "rlpost_commit")

    async def end_requests(self) -> None:
        await self.engine.ask("pause_generation", mode="abort", clear_cache=True)

    async def kernel_digest(self) -> KernelDigest:
        workers = await self.engine.ask("collective_rpc", "rlpost_kernel_digest")
        layouts, contents = zip(*workers, strict=True)
        return KernelDigest(layouts=layouts, contents=contents)

    async def restore_model(self, version: int) -> bool:
        if not all(await self.engine.ask("collective_rpc", "rlpost_rollback")):
            return False
        await self.engine.ask("update_weight_version", str(version))
        return True

    # -- adapters: see ``adapter_pushes.AdapterHolder`` -----------------------------------

    async def receive_adapter(self, locator: Locator, *, first_rank: int) -> None:
        await self.engine.receive_adapter(locator, first_rank=first_rank)

    async def load_adapter(self, version: int, *, keep: Sequence[int]) -> None:
        await self.engine.load_adapter(version, keep=keep)

    async def keep_adapters(self, keep: Sequence[int]) -> None:
        await self.engine.keep_adapters(keep)

    # -- life -----------------------------------------------------------------------------

    async def check(self) -> Load:
        await self.engine.ask("check_health")
        # Through the engine's loop to its workers: either may hang while this process lives.
        await self.engine.ask("collective_rpc", "rlpost_alive")
        return self._load

    async def shut_down(self) -> None:
        await self.engine.shut_down()


def _sampling_params(request: GenerationRequest) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        n=request.num_samples,
        seed=request.seed,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        repetition_penalty=1.0,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        # Their tokens are part of the response, so verifiers read them.
        include_stop_str_in_output=bool(sampling.stop or sampling.stop_token_ids),
        logprobs=0,  # the sampled token's own
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _sampled(child: Any) -> Sampled:
    """Translate one completion of vLLM's."""
    return Sampled(
        token_ids=tuple(child.token_ids),
        logprobs=tuple(
            position[token].logprob
            for token, position in zip(child.token_ids, child.logprobs, strict=True)
        ),
        text=child.text,
        finish_reason=str(child.finish_reason),
        weight_versions=tuple(
            VersionSpan(version=each.version, start=each.start, end=each.end)
            for each in child.weight_versions or ()
        ),
    )
