"""A stand-in for SGLang's HTTP server that computes with the real model through transformers.

It keeps those habits of SGLang 0.5.23 on which a generator depends, each beside the source file
that has it. Log-probs, pushes and prefixes are real: what was cached under other weights stays so
until the cache is flushed.
"""

import argparse
import asyncio
import os
import random
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from aiohttp import web
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(eq=False)
class Running:
    """One response, from its arrival to its end."""

    rid: str
    prompt: list[int]
    params: dict[str, Any]
    scores: bool
    output: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    changes: list[tuple[str, int]] = field(default_factory=list)  # a version, and where it ended
    retractions: int = 0
    kept: Any = None  # keys and values
    input_logprobs: list[list[Any]] = field(default_factory=list)
    done: asyncio.Future[dict[str, Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Scheduler:
    """Samples a token of every running response in each step."""

    def __init__(self, settings: dict[str, Any]) -> None:
        path = settings["model-path"]
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.context = settings["context-length"]
        self.deterministic = settings.get("enable-deterministic-inference", False)
        self.max_running = settings["max-running-requests"]
        self.version = settings["weight-version"]
        self.running: list[Running] = []
        self.waiting: list[Running] = []
        self.paused = False
        self.cache: dict[tuple[int, ...], torch.Tensor] = {}  # prefix -> what it was computed to
        self.work = asyncio.Event()

    async def run(self) -> None:
        while True:
            await self.work.wait()
            if self.paused or not (self.running or self.waiting):
                self.work.clear()
                continue
            room = self.max_running - len(self.running)
            self.running += self.waiting[:room]
            self.waiting = self.waiting[room:]
            self.step()
            await asyncio.sleep(0)

    @torch.no_grad()
    def step(self) -> None:
        # An id outside of the vocabulary ends the scheduler, and with it the server.
        if any(max(each.prompt) >= self.model.config.vocab_size for each in self.running):
            os._exit(1)
        for each in self.running:
            logits = self._logits(each)
            if each.params.get("max_new_tokens", 128) > 0:
                self._sample(each, logits)
        ended = [(each, reason) for each in self.running if (reason := self._end(each))]
        for each, reason in ended:
            self.finish(each, reason)

    def _logits(self, each: Running) -> torch.Tensor:
        """Compute what follows one more token, or the whole where no keys and values are kept."""
        whole = each.prompt + each.output
        ids = whole if each.kept is None else whole[-1:]
        out = self.model(torch.tensor([ids]), past_key_values=each.kept, use_cache=True)
        each.kept, logits = out.past_key_values, out.logits[0].float()
        if each.scores and not each.input_logprobs:  # such a request reads no cached prefix
            logprobs = logits.log_softmax(-1)
            each.input_logprobs = [[None, ids[0], None]] + [
                [logprobs[at - 1, ids[at]].item(), ids[at], None] for at in range(1, len(ids))
            ]
        if each.scores:
            return logits[-1]
        # mem_cache: prefixes are shared among requests, and know nothing of weights.
        return self.cache.setdefault(tuple(whole), logits[-1])

    def _sample(self, each: Running, logits: torch.Tensor) -> None:
        """sampling/sampling_params.py: a temperature of 0 is the likeliest token at 1."""
        temperature = each.params.get("temperature", 1.0)
        logprobs = (logits / (temperature or 1.0)).log_softmax(-1)
        generator = None
        if self.deterministic:  # sampling/sampling_batch_info.py: otherwise seeds are not read
            seed = hash((each.params.get("sampling_seed", 42), len(each.prompt + each.output)))
            generator = torch.Generator().manual_seed(seed % 2**63)
        if temperature:
            token = int(torch.multinomial(logprobs.exp(), 1, generator=generator))
        else:
            token = int(logprobs.argmax())
        each.output.append(token)
        each.logprobs.append(logprobs[token].item())

    def _end(self, each: Running) -> dict[str, Any] | None:
        """managers/schedule_batch.py: how a response has ended; None: it goes on."""
        params, output = each.params, each.output
        ends = {self.model.config.eos_token_id, *params.get("stop_token_ids", ())}
        if output and output[-1] in ends:
            return {"type": "stop", "matched": output[-1]}
        for stop in params.get("stop", ()):
            if stop in self.decoded(output):
                return {"type": "stop", "matched": stop}
        room = self.context - 2 - len(each.prompt)
        if len(output) >= min(params.get("max_new_tokens", 128), room):
            return {"type": "length", "length": len(output)}
        return None

    def decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def finish(self, each: Running, reason: dict[str, Any], *, queued: bool = False) -> None:
        for queue in (self.running, self.waiting):
            if each in queue:
                queue.remove(each)
        if queued:  # managers/scheduler.py, abort_request: what was sampled before is lost
            each.output, each.logprobs, each.changes = [], [], []
        meta = {
            "id": each.rid,
            "finish_reason": reason,
            "weight_version": self.version,
            "weight_versions": self._spans(each),
            "completion_tokens": len(each.output),
            "output_token_logprobs": [
                [logprob, token, None]
                for logprob, token in zip(each.logprobs, each.output, strict=True)
            ],
            "input_token_logprobs": each.input_logprobs,
        }
        if not queued:
            meta["num_retractions"] = each.retractions
        text = self.decoded(each.output)
        matched = reason.get("matched")
        if isinstance(matched, str) and not each.params.get("no_stop_trim"):
            text = text[: text.index(matched)]
        if not each.done.done():
            each.done.set_result({"text": text, "output_ids": each.output, "meta_info": meta})

    def _spans(self, each: Running) -> list[dict[str, Any]]:
        """utils/weight_versions.py: an empty response has one span, of no token."""
        spans: list[dict[str, Any]] = []
        for version, end in [*each.changes, (self.version, len(each.output))]:
            start = spans[-1]["end"] if spans else 0
            if not spans or end > start:
                spans.append({"version": version, "start": start, "end": end})
        return spans

    def renamed(self, version: str) -> None:
        for each in [*self.running, *self.waiting]:
            if each.output:
                each.changes.append((self.version, len(each.output)))
        self.version = version

    def retract(self) -> None:
        """managers/scheduler.py, pause_generation: they wait, and are computed anew."""
        for each in self.running:
            each.retractions += 1
            each.kept = None
        self.waiting = self.running + self.waiting
        self.running = []

    def flush(self) -> bool:
        if self.running or (self.waiting and not self.paused):
            return False
        self.cache.clear()
        return True


class Server:
    """The endpoints, in front of a scheduler."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.key = settings["api-key"]
        self.scheduler = Scheduler(settings)
        self.is_pause = False
        self.go_on = asyncio.Condition()
        self.known: dict[str, Running] = {}
        self.sent_abort: set[str] = set()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.guarded])
        for method, path, handler in (
            ("GET", "/ready", self.ready),
            ("GET", "/health_generate", self.health),
            ("GET", "/v1/loads", self.loads),
            ("POST", "/generate", self.generate),
            ("POST", "/abort_request", self.abort),
            ("POST", "/pause_generation", self.pause),
            ("POST", "/continue_generation", self.resume),
            ("POST", "/update_weights_from_disk", self.update),
        ):
            app.router.add_route(method, path, handler)
        return app

    @web.middleware
    async def guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """utils/auth.py: whoever has no key gets nothing."""
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def ready(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if self.is_pause else 200)

    async def health(self, request: web.Request) -> web.Response:
        """entrypoints/http_server.py: a token is generated, for which a pause leaves no way."""
        return web.Response(status=503 if self.is_pause else 200)

    async def loads(self, request: web.Request) -> web.Response:
        return web.json_response({"loads": [{"token_usage": 0.25}]})

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        many = isinstance(body["rid"], list)
        params = body["sampling_params"] if many else [body["sampling_params"]]
        prompts = body["input_ids"] if many else [body["input_ids"]]
        rids = body["rid"] if many else [body["rid"]]
        if any(each.get("n", 1) > 1 for each in params):  # managers/io_struct.py: ids are lost
            rids = [uuid.uuid4().hex for each in params for _ in range(each["n"])]
        longest = max(map(len, prompts))
        if longest >= self.scheduler.context:
            why = f"The input ({longest} tokens) is longer than the model's context length."
            return web.json_response({"error": {"message": why}}, status=400)
        # logprob_start_len is -1 unless it is given: no log-prob of the prompt.
        scores = body.get("logprob_start_len", -1) >= 0
        entered = [
            Running(rid=rid, prompt=prompt, params=each, scores=scores)
            for rid, prompt, each in zip(rids, prompts, params, strict=True)
        ]
        self.known |= {each.rid: each for each in entered}
        try:
            async with self.go_on:  # managers/tokenizer_manager.py, generate_request
                await self.go_on.wait_for(lambda: not self.is_pause)
            self.scheduler.waiting += entered
            self.scheduler.work.set()
            answers = [await each.done for each in entered]
        finally:
            for each in entered:
                self.known.pop(each.rid, None)
                self.sent_abort.discard(each.rid)
        return web.json_response(answers if many else answers[0])

    async def abort(self, request: web.Request) -> web.Response:
        """managers/tokenizer_manager.py: unknown ids are ignored, and each is told once."""
        rid = (await request.json())["rid"]
        if rid in self.known and rid not in self.sent_abort:
            self.sent_abort.add(rid)
            self._abort(rid)
        return web.Response()

    def _abort(self, beginning: str) -> None:
        """managers/scheduler.py: every request whose id begins so is ended."""
        for each in [each for each in self.scheduler.waiting if each.rid.startswith(beginning)]:
            reason = {"type": "abort", "message": "Abort in waiting queue"}
            self.scheduler.finish(each, reason, queued=True)
        for each in [each for each in self.scheduler.running if each.rid.startswith(beginning)]:
            self.scheduler.finish(each, {"type": "abort", "message": "Aborted"})

    async def pause(self, request: web.Request) -> web.Response:
        """A pause that aborts leaves the scheduler as it is: only new requests wait."""
        mode = (await request.json()).get("mode", "abort")
        self.is_pause = True
        if mode == "abort":
            self._abort("")
        else:
            self.scheduler.paused = True
            if mode == "retract":
                self.scheduler.retract()
        return web.json_response({"status": "ok"})

    async def resume(self, request: web.Request) -> web.Response:
        self.is_pause = self.scheduler.paused = False
        self.scheduler.work.set()
        async with self.go_on:
            self.go_on.notify_all()
        return web.json_response({"status": "ok"})

    async def update(self, request: web.Request) -> web.Response:
        """managers/scheduler_components/weight_updater.py; a failure leaves what it has loaded."""
        body = await request.json()
        files = sorted(Path(body["model_path"]).glob("*.safetensors"))
        if not files:
            return _failed(f"Failed to get weights iterator: {body['model_path']}")
        try:
            for file in files:
                self._load(load_file(file))
        except (RuntimeError, KeyError) as error:
            return _failed(f"Failed to update weights: {error}.\nRolling back to original weights.")
        if body.get("weight_version") is not None:
            self.scheduler.renamed(body["weight_version"])
        if body.get("flush_cache", True) and not self.scheduler.flush():
            return _failed("Weights were updated, but the cache was not flushed")
        return web.json_response({"success": True, "message": "", "num_paused_requests": 0})

    @torch.no_grad()
    def _load(self, tensors: dict[str, torch.Tensor]) -> None:
        """A loader copies what it is given: what is missing stays as it was, without a word."""
        own = dict(self.scheduler.model.named_parameters())
        for name, tensor in tensors.items():
            if name in own:
                own[name].copy_(tensor)


def _failed(message: str) -> web.Response:
    return web.json_response({"success": False, "message": message}, status=400)


async def _serve(settings: dict[str, Any]) -> None:
    server = Server(settings)
    runner = web.AppRunner(server.app())
    await runner.setup()
    await web.TCPSite(runner, settings["host"], settings["port"]).start()
    await server.scheduler.run()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    known, _ = parser.parse_known_args()
    settings = yaml.safe_load(Path(known.config).read_text())
    torch.set_num_threads(1)
    torch.manual_seed(random.randrange(2**31))  # without a seed of one's own, it is random
    asyncio.run(_serve(settings))


if __name__ == "__main__":
    sys.exit(main())
