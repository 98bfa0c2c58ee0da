"""A trainer in this process and one real engine, with the bus between them."""

import asyncio
from dataclasses import replace

import torch
from fakes import seat, serving_fleet

from rlpost.models.naming import pieces_of
from rlpost.rollout.device_defaults import with_device_defaults
from rlpost.rollout.engine_generator import EngineGenerator
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig, GeneratorDtype
from rlpost.rollout.signal import Signal
from rlpost.types import GenerationRequest, Prompt, SamplingConfig
from rlpost.weights.bus import WeightBus
from rlpost.weights.manifest import describe, payload_size_bytes, write_payload
from rlpost.weights.protocol import BusConfig
from rlpost.weights.transports.shared_memory import SharedMemorySender
from rlpost.weights.transports.stream_sender import StreamSender

PROBE = [[7, 40, 80, 120, 33, 90], [60, 61, 200, 201]]
PROMPT = Prompt(uid="0:0", token_ids=tuple(range(40, 60)), text="")


class TorchPublisher:
    """A trainer in this process: a plain transformers model behind the bus's protocol."""

    def __init__(self, path, run_id: str) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.sender = SharedMemorySender(run_id=run_id)
        self.pieces = pieces_of(self.model)
        self.skip: str | None = None
        self.flip_byte: int | None = None
        self.misshapen: str | None = None
        self.stream: StreamSender | None = None  # what sends instead
        self._sending: list = []

    def tensors_to_send(self):
        state = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        whole = [
            pair
            for piece in self.pieces
            for pair in piece.of(self.model, {name: state[name] for name in piece.sources})
        ]
        weights = [(n, p) for n, p in whole if n != self.skip]
        if self.misshapen:  # one tensor twice as long as the model's
            weights = [(n, torch.cat([p, p]) if n == self.misshapen else p) for n, p in weights]
        return weights

    async def stage(self, version, *, seats):
        weights = self.tensors_to_send()
        shapes = [(n, p.dtype, tuple(p.shape)) for n, p in weights]
        if self.stream is not None:
            self._sending = [(name, tensor.detach().clone()) for name, tensor in weights]
            self._manifest = describe(shapes, version=version)
            return replace(self.stream.announce(self._manifest, seats=seats), live=True)
        buffer = self.sender.buffer(payload_size_bytes(shapes), version=version)
        locator = self.sender.announce(
            write_payload(iter(weights), buffer, version=version), seats=seats
        )
        if self.flip_byte is not None:
            buffer[self.flip_byte] ^= 1
        return locator

    async def stage_changed(self, version, damaged):
        """Stage other weights than before, with a wrong byte if they are to be damaged."""
        self.perturb(100 + version)
        self.flip_byte = 5 if damaged else None
        locator = await self.stage(version, seats=[seat()])
        self.flip_byte = None
        return locator

    async def announce_again(self, *, seats):
        return replace(self.stream.announce(self._manifest, seats=seats), live=True)

    async def send(self):
        if self.stream is not None:  # a receiver may have to come first
            await asyncio.to_thread(self.stream.send, iter(self._sending))

    async def release(self, version):
        self.sender.release(version)

    @torch.no_grad()
    async def probe_logprobs(self, sequences):
        return [self.logprobs(ids) for ids in sequences]

    @torch.no_grad()
    def logprobs(self, ids, temperature: float = 1.0) -> list[float]:
        logits = self.model(torch.tensor([list(ids)])).logits[0].float() / temperature
        return [logits.log_softmax(-1)[i, ids[i + 1]].item() for i in range(len(ids) - 1)]

    def bits(self, name: str) -> torch.Tensor:
        """Return a parameter's values as integers, in place."""
        return self.model.get_parameter(name).data.view(-1).view(torch.int32)

    @torch.no_grad()
    def perturb(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise * (parameter.std() + 0.05))


async def boot(
    path, *, adapters: AdapterCapacity | None = None, blank: bool = False, **options
) -> EngineGenerator:
    cfg = GeneratorConfig(dtype=GeneratorDtype.float32, threads=1, max_model_len=512, **options)
    cfg = with_device_defaults(cfg, on_gpu=False, cores=1)
    generator = EngineGenerator(cfg, model_path=str(path), adapters=adapters, blank=blank)
    await generator.setup()
    return generator


def bus_for(publisher, generator, *, memory: str = "here", quantized: bool = False) -> WeightBus:
    return WeightBus(
        publisher,
        fleet=serving_fleet(["g"]),
        receivers={"g": generator},
        seats={"g": seat(memory)},
        probe=PROBE,
        cfg=BusConfig(exact=not quantized, quantized=quantized, attempts=1),
        changed=Signal().wait,
    )


async def sample(
    generator, *, key="test/0:0", n=4, seed=5, temperature=1.0, max_tokens=12, **stops
):
    return await generator.generate(
        GenerationRequest(
            key=key,
            prompt=PROMPT,
            num_samples=n,
            seed=seed,
            sampling=SamplingConfig(max_tokens=max_tokens, temperature=temperature, **stops),
        )
    )


async def started(generator, **options) -> asyncio.Task:
    """A long request of which the engine has sampled some tokens, but not nearly all."""
    task = asyncio.create_task(sample(generator, max_tokens=400, **options))
    await asyncio.sleep(0)  # it is sent first
    await sample(generator, key="test/beside", n=1, max_tokens=16)  # in steps that they share
    assert not task.done()
    return task


def worst_gap(publisher, episodes, temperature=1.0) -> float:
    gaps = []
    for (t,) in (episode.trajectories for episode in episodes):
        truth = publisher.logprobs(t.prompt_ids + t.response_ids, temperature)
        truth = truth[len(t.prompt_ids) - 1 :]
        gaps += [abs(a - b) for a, b in zip(truth, t.rollout_logprobs, strict=True)]
    return max(gaps)
