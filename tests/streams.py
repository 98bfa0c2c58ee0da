"""Hosts of several workers each, and one beside the sender: threads of this process."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from fakes import seat

from rlpost.weights.manifest import describe
from rlpost.weights.transports.gloo_wire import GlooWire
from rlpost.weights.transports.protocol import Locator
from rlpost.weights.transports.shared_memory import shared_memory_id
from rlpost.weights.transports.stream_receiver import StreamReceiver
from rlpost.weights.transports.stream_sender import StreamSender
from rlpost.weights.transports.wire import Wire

SEATS = [seat("left", num_workers=2), seat(shared_memory_id()), seat("right", num_workers=2)]
HOSTS = ["left", "left", None, "right", "right"]  # of ranks 1 to 5; None: the sender's
BUCKET_BYTES = 256


def weights(version: int) -> dict[str, torch.Tensor]:
    """Five tensors, one of which is larger than a bucket."""
    sizes = {"a": 20, "b": 30, "large": 200, "c": 7, "d": 40}
    return {name: torch.arange(size) * 1.0 + version for name, size in sizes.items()}


@dataclass
class Streamed:
    """A sender and a receiver per worker; each host has its own directory."""

    root: Path
    timeout_s: float = 60.0
    wire: Callable[[], Wire] = GlooWire
    weights: Callable[[int], dict[str, torch.Tensor]] = weights
    clock: Callable[[], float] = time.monotonic  # of the sender
    receivers_clock: Callable[[], float] = time.monotonic
    receivers: list[StreamReceiver] = field(default_factory=list)

    def __post_init__(self) -> None:
        for host in HOSTS:
            self.directory(host).mkdir(exist_ok=True)
        self.sender = StreamSender(
            self.wire(),
            run_id=self.root.name,
            host="127.0.0.1",
            timeout_s=self.timeout_s,
            bucket_bytes=BUCKET_BYTES,
            directory=self.directory(None),
            clock=self.clock,
        )
        self.receivers = [self.receiver(host) for host in HOSTS]

    def receiver(self, host: str | None) -> StreamReceiver:
        return StreamReceiver(
            self.wire(),
            memory=host,
            directory=self.directory(host),
            clock=self.receivers_clock,
        )

    def directory(self, host: str | None) -> Path:
        return self.root / (host or "own")

    def announce(self, version: int, tensors: dict[str, torch.Tensor]) -> Locator:
        shapes = [(name, each.dtype, tuple(each.shape)) for name, each in tensors.items()]
        return self.sender.announce(describe(shapes, version=version), seats=SEATS)

    def push(
        self,
        version: int,
        *,
        absent: tuple[int, ...] = (),
        sent: Mapping[str, torch.Tensor] | None = None,
        load: Callable[[int, dict[str, torch.Tensor]], None] = lambda rank, part: None,
    ) -> list[Future]:
        """Send and receive; ``load`` gets every part that a rank took, as it comes."""
        tensors = self.weights(version)
        locator = self.announce(version, tensors)
        with ThreadPoolExecutor(6) as pool:
            futures = [pool.submit(self.sender.send, iter((sent or tensors).items()))]
            for rank, receiver in enumerate(self.receivers, start=1):
                if rank not in absent:
                    where = {**locator.where, "rank": rank}
                    wire = Locator(**{**vars(locator), "where": where})
                    futures.append(pool.submit(self.read, receiver, wire, load))
        return futures

    @staticmethod
    def read(receiver: StreamReceiver, locator: Locator, load) -> dict[str, torch.Tensor]:
        taken = {}
        with closing(receiver.buckets(locator)) as buckets:
            for part in buckets:
                load(locator.where["rank"], dict(part))
                taken |= {name: tensor.clone() for name, tensor in part}
        return taken

    def close(self) -> None:
        self.sender.close()
        for receiver in self.receivers:
            receiver.close()
