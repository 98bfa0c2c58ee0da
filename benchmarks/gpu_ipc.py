"""Weights through memory that two processes of one GPU map: `gpu_check.py`'s section of CUDA IPC.

The sending and the receiving end are the project's own (`weights/transports/`). A payload of 2.5 GB
is streamed into another process, that process is killed in the middle of the next one, and a third
one gets the third. Over gloo the same code runs on a CPU, where buckets lie in a file.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import torch
from gpu_device import require_cuda
from gpu_section import Finding, Models

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import describe
from rlpost.weights.transports.choice import WIRES, Transport
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.transports.shared_memory import shared_memory_id
from rlpost.weights.transports.stream_receiver import StreamReceiver
from rlpost.weights.transports.stream_sender import StreamSender
from rlpost.weights.word_sums import word_sums

NUM_LAYERS = 40
LAYER_BYTES, TINY_LAYER_BYTES = 64 << 20, 1 << 20
NOTICED_S = 20.0  # far below the deadline of the push
LEFT_MB = 64  # what a driver may keep of a process that is gone


def consumer(over: str, layer_bytes: int, pipe: Any) -> None:
    """Load payloads into kernels of its own; stops in the middle of one if it is told to."""
    wire = WIRES[Transport(over)]()
    receiver = StreamReceiver(wire)
    kernels = torch.empty(NUM_LAYERS, layer_bytes, dtype=torch.uint8, device=wire.device)
    pipe.send("ready")
    while (told := pipe.recv()) is not None:
        locator, stops = told
        with closing(receiver.buckets(locator)) as buckets:
            number = 0
            for part in buckets:
                for _, tensor in part:
                    kernels[number].copy_(tensor)
                    number += 1
                if stops and number > NUM_LAYERS // 2:
                    pipe.send("in the middle")
                    time.sleep(600)
        pipe.send(word_sums(kernels).tolist())
    receiver.close()


class Sender:
    """The trainer's end, and the process that it sends to."""

    def __init__(self, over: Transport, layer_bytes: int) -> None:
        self._over, self._layer_bytes = over, layer_bytes
        self._wire = WIRES[over]()
        self._sender = StreamSender(
            self._wire, run_id="gpu-check", host="127.0.0.1", timeout_s=100.0
        )
        self._layer = torch.empty(layer_bytes, dtype=torch.uint8, device=self._wire.device)
        self.start()

    def start(self) -> None:
        """Start a process that receives."""
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        arguments = (self._over.value, self._layer_bytes, theirs)
        self._process = spawn.Process(target=consumer, args=arguments, daemon=True)
        self._process.start()
        assert self.pipe.recv() == "ready"

    def _layers(self, version: int) -> Iterator[tuple[str, torch.Tensor]]:
        for number in range(NUM_LAYERS):
            self._layer.fill_((version * NUM_LAYERS + number) % 251)
            yield f"layer{number}", self._layer

    def push(self, version: int, *, stops: bool = False) -> Callable[[], None]:
        """Announce a version, and tell the other process; returns what sends it."""
        names = [f"layer{number}" for number in range(NUM_LAYERS)]
        shapes = [(name, torch.uint8, (self._layer_bytes,)) for name in names]
        gpus = () if self._wire.gpu is None else (self._wire.gpu,)
        seats = [Seat(memory=shared_memory_id(), num_workers=1, gpus=gpus)]
        locator = self._sender.announce(describe(shapes, version=version), seats=seats)
        where = {**locator.where, "rank": 1}
        self.pipe.send((Locator(**{**vars(locator), "where": where}), stops))
        return lambda: self._sender.send(self._layers(version))

    def arrived(self, version: int) -> bool:
        """Whether the other process holds that version to the last bit."""
        layers = [layer.cpu().clone() for _, layer in self._layers(version)]
        wanted: list[int] = word_sums(torch.stack(layers)).tolist()
        return bool(self.pipe.recv() == wanted)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        with suppress(OSError):  # it was killed
            self.pipe.send(None)
        self._process.join(30)
        self._sender.close()


def free_bytes() -> int:
    """Return what is free on the GPU; 0 without one."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0


def cuda_ipc(models: Models) -> Iterator[Finding]:
    """Bits, pace, a consumer that dies, and the memory that comes back."""
    require_cuda("CUDA IPC")
    yield from streamed(Transport.cuda_ipc, TINY_LAYER_BYTES if models.tiny else LAYER_BYTES)


def streamed(over: Transport, layer_bytes: int) -> Iterator[Finding]:
    """The section over any stream between processes of a host."""
    sender = Sender(over, layer_bytes)
    try:
        for version in (1, 2):  # the first one maps the memory
            send = sender.push(version)
            start_s = time.perf_counter()
            send()
            pace = NUM_LAYERS * layer_bytes / (time.perf_counter() - start_s)
            right = sender.arrived(version)
            yield Finding(check=f"push {version}: bit-equal", value=float(right), least=1)
        yield Finding(check="streamed, verified and loaded", value=pace / 1e9, unit=" GB/s")
        yield noticed(sender)
        sender.start()
        held = free_bytes()
        sender.push(4)()
        right = sender.arrived(4)
        yield Finding(check="the next process: bit-equal", value=float(right), least=1)
        sender.kill()
        sender.start()
        kept = (held - free_bytes()) / 1e6
        yield Finding(check="kept of killed processes", value=kept, bound=LEFT_MB, unit=" MB")
    finally:
        sender.close()


def noticed(sender: Sender) -> Finding:
    """Kill the consumer in the middle of a payload; returns how soon the sender knows."""
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(sender.push(3, stops=True))
        assert sender.pipe.recv() == "in the middle"
        sender.kill()
        start_s = time.perf_counter()
        error = sending.exception(90)
    seconds = time.perf_counter() - start_s if isinstance(error, WeightPushError) else float("inf")
    return Finding(check="a killed consumer is noticed", value=seconds, bound=NOTICED_S, unit=" s")
