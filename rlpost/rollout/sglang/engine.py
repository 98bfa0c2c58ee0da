"""SGLang as the engine of a generator: requests, scores and the verbs of a push, over HTTP.

Owns the translation between ``engine.Engine`` and SGLang's own words. Refuses to own the process
(server.py) and where payloads lie (payload.py). Invariants: token ids go in and come out; log-probs
are the sampler's own, after temperature; no prefix outlives the weights that it was computed with.

Facts about SGLang are those of 0.5.23, with the source file of each. Three decide what is here. A
request is ended by the beginning of its id, so no id may begin with another (managers/scheduler.py,
abort_request). A pause that retracts frees all keys and values: what goes on after a push has its
whole prefix computed again by the new weights (managers/scheduler.py, pause_generation). A failed
load says that it went back to the old weights and reads the new directory once more
(model_executor/model_runner_components/weight_updater.py), so going back is always done here.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpost.control.concurrency import Load
from rlpost.errors import NoAnswer, WeightPushError
from rlpost.rollout.engine import Booted
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.rollout.pushes import Admitted
from rlpost.rollout.sampled import Sampled
from rlpost.rollout.sglang.answers import sampled_in, scores_in
from rlpost.rollout.sglang.payload import Payloads
from rlpost.rollout.sglang.server import SglangServer
from rlpost.types import GenerationRequest
from rlpost.weights.deadline import CALL_S
from rlpost.weights.kernel_digest import KernelDigest
from rlpost.weights.manifest import Shape
from rlpost.weights.transports.protocol import Locator


class SglangEngine:
    """See ``engine.Engine``.

    Args:
        cfg: of the generators, resolved.
        model_path: directory in Hugging Face layout.
    """

    def __init__(self, cfg: GeneratorConfig, *, model_path: str) -> None:
        self._cfg = cfg
        self._server = SglangServer(cfg, model_path=model_path)
        self._payloads = Payloads(Path(model_path))
        self._children: dict[str, list[str]] = {}  # id of a request -> ids of its responses
        self._num_pauses = 0
        self._num_preempted = 0

    async def boot(self, model: Mapping[str, Shape]) -> Booted:
        await self._server.start()
        assert self._cfg.max_model_len is not None
        return Booted(
            max_model_len=self._cfg.max_model_len,
            dtype=self._cfg.dtype.value,
            num_receivers=1,  # this process, whatever the number of the server's workers
        )

    # -- requests -------------------------------------------------------------------------

    async def sample(self, request: GenerationRequest, admitted: Admitted) -> list[Sampled]:
        ids = [f"{admitted.request_id}.{number}." for number in range(request.num_samples)]
        self._children[admitted.request_id] = ids
        pauses_before = self._num_pauses
        try:
            answers = await self._generated(
                {
                    "rid": ids,
                    "input_ids": [list(request.prompt.token_ids)] * len(ids),
                    "sampling_params": [
                        _sampling_params(request, number) for number in range(len(ids))
                    ],
                    "return_logprob": True,
                }
            )
        finally:
            del self._children[admitted.request_id]
        responses = [sampled_in(answer, request.sampling.stop) for answer in answers]
        self._count_preempted(answers, self._num_pauses - pauses_before)
        return responses

    def _count_preempted(self, answers: Sequence[Any], num_pauses: int) -> None:
        """Leave out those retractions that our own pauses caused."""
        for answer in answers:
            retracted = answer["meta_info"].get("num_retractions", 0)
            self._num_preempted += max(0, retracted - num_pauses)

    async def score(self, token_ids: Sequence[int], admitted: Admitted) -> list[float]:
        (answer,) = await self._generated(
            {
                "rid": [f"{admitted.request_id}.score."],
                "input_ids": [list(token_ids)],
                "sampling_params": [{"max_new_tokens": 1, "temperature": 1.0}],
                "return_logprob": True,
                "logprob_start_len": 0,
            }
        )
        return scores_in(answer, token_ids)

    async def _generated(self, body: dict[str, Any]) -> list[Any]:
        answer = await self._server.ask("POST", "/generate", body)
        if answer.status != 200:
            raise NoAnswer(f"SGLang refused a request: {answer.text:.300}")
        return list(answer.json())

    async def abort(self, request_ids: Iterable[str]) -> None:
        children = [child for each in request_ids for child in self._children.get(each, ())]
        await asyncio.gather(*(self._command("/abort_request", rid=child) for child in children))

    # -- pushes: see ``engine.ModelHolder`` -----------------------------------------------

    async def sleep(self) -> None:
        raise WeightPushError("an engine of SGLang keeps its device (generator.sleep)")

    async def bring_back(self, part: str) -> None:
        raise WeightPushError(f"the {part} of an engine of SGLang did not leave the device")

    async def kernel_digest(self) -> KernelDigest:
        raise WeightPushError("SGLang does not show what its kernels hold (weights.compare_every)")

    async def begin_update(self) -> None:
        self._num_pauses += 1
        await self._command("/pause_generation", mode="retract")

    async def receive_model(self, locator: Locator, *, first_rank: int) -> None:
        await asyncio.to_thread(self._payloads.receive, locator)

    async def load_model(self, version: int) -> None:
        await self._load(self._payloads.received, version)

    async def _load(self, directory: Path, version: int) -> None:
        """Read a directory in place and drop every prefix.

        Raises:
            WeightPushError: it was refused; the model may hold anything by now.
        """
        answer = await self._server.ask(
            "POST",
            "/update_weights_from_disk",
            {
                "model_path": str(directory),
                "load_format": "safetensors",
                "weight_version": str(version),
                "flush_cache": True,
            },
            timeout_s=CALL_S,
        )
        if answer.status != 200 or not answer.json()["success"]:
            raise WeightPushError(f"SGLang did not load version {version}: {answer.text:.300}")

    async def resume(self) -> None:
        await self._command("/continue_generation")

    async def commit_model(self) -> None:
        self._payloads.commit()

    async def end_requests(self) -> None:
        self._num_pauses += 1
        await self._command("/pause_generation", mode="abort")

    async def restore_model(self, version: int) -> bool:
        await self._load(self._payloads.committed, version)
        self._payloads.forget()
        return True

    async def _command(self, path: str, **body: Any) -> None:
        """Ask for what belongs to a push or ends a request; the deadline is that of who asks."""
        answer = await self._server.ask("POST", path, body, timeout_s=CALL_S)
        if answer.status != 200:
            raise NoAnswer(f"SGLang answered {path} with {answer.status}: {answer.text:.300}")

    # -- life -----------------------------------------------------------------------------

    async def check(self) -> Load:
        """Have a token generated, or see that others are (entrypoints/http_server.py)."""
        answer = await self._server.ask("GET", "/health_generate")
        if answer.status != 200:
            raise NoAnswer(f"SGLang's scheduler does not answer: status {answer.status}")
        load = await self._server.ask("GET", "/v1/loads")
        used = max(float(each["token_usage"]) for each in load.json()["loads"])
        return Load(kv_use=min(used, 1.0), num_preempted=self._num_preempted)

    async def shut_down(self) -> None:
        try:
            await self._server.close()
        finally:
            self._payloads.close()


def _sampling_params(request: GenerationRequest, number: int) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "sampling_seed": request.seed + number,  # heeded with sglang.deterministic alone
        "max_new_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        # Their tokens are part of the response, so verifiers read them.
        "no_stop_trim": bool(sampling.stop or sampling.stop_token_ids),
    }
