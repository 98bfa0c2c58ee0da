"""The sending end, inside the trainer's ranks.

Owns the payload of the version being pushed, and what it asks of the weights. Refuses to own the
trainer: it gets an iterator of named tensors, which every rank must exhaust because gathering is
collective under ZeRO-3; only rank 0 holds a sender.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from rlpost.bounds import WEEK_S, number, option
from rlpost.weights.manifest import PushManifest, payload_size_bytes, write_payload
from rlpost.weights.transports.choice import Transport, make_sender
from rlpost.weights.transports.protocol import Locator, Seat, Sender

Shapes = Sequence[tuple[str, torch.dtype, tuple[int, ...]]]


@dataclass(kw_only=True)
class WeightsConfig:
    """The weight bus: transport, deadline and the bound of the probe."""

    transport: Transport = option(
        Transport.auto,
        help="how weights travel; auto: shared memory where all sit on one host, else gloo",
    )
    timeout_s: float | None = number(
        None,
        above=0,
        at_most=WEEK_S,
        help="deadline of each phase of a push; null: 120 s and the bytes at 0.25 GB/s",
    )
    probe_sequences: int = number(
        2,
        at_least=1,
        at_most=1000,
        hint="a push without a probe is not proved",
        help="sequences that trainer and generators both score after a push",
    )
    probe_tokens: int = number(
        24,
        at_least=2,
        at_most=10**5,
        hint="a push without a probe is not proved",
        help="tokens per sequence of the probe",
    )
    probe_max_diff: float | None = number(
        None,
        above=0,
        at_most=1000,
        help="nats allowed; null: 1e-3 in float32 (largest), 0.3 with fp8, 0.1 else (mean)",
    )
    compare_every: int | None = number(
        10,
        at_least=1,
        at_most=10**6,
        help="pushes between comparisons of vLLM's kernels, bit by bit; null: none",
    )


def sender_factory(cfg: WeightsConfig, *, run_id: str, root: Path) -> Callable[..., Sender]:
    """Return what builds the sending end where it is called with its ``host``.

    Args:
        cfg: which transport, and its deadline.
        run_id: names the run among all of a host.
        root: directory for payloads that travel in files.
    """
    return partial(make_sender, cfg.transport, run_id=run_id, root=root, timeout_s=cfg.timeout_s)


class ServedWeights(Protocol):
    """What generators get of a model that is trained."""

    @property
    def adapter(self) -> Mapping[str, Any] | None:
        """peft's configuration of the adapter that they are; None: they are a whole model."""

    @property
    def merge_error(self) -> float | None:
        """See ``PushManifest``; of the last pass."""

    def shapes(self) -> Shapes:
        """Return name, dtype and shape of every tensor, in order."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors; collective on all ranks. One may be the live weight."""


class WeightPublisher:
    """Turns the trainer's current weights into fetchable payloads.

    Args:
        source: returns the weights, awake.
        sender: on rank 0; None elsewhere.
    """

    def __init__(self, source: Callable[[], ServedWeights], *, sender: Sender | None) -> None:
        self._source = source
        self._size_bytes = payload_size_bytes(source().shapes())
        self._sender = sender
        self._newest: PushManifest | None = None

    def stage(self, version: int, *, seats: Sequence[Seat]) -> Locator | None:
        """Write version ``version``; returns where it is (None off rank 0)."""
        weights = self._source()
        if self._sender is None:
            for _ in weights.tensors():
                pass
            return None
        buffer = self._sender.buffer(self._size_bytes, version=version)
        written = write_payload(weights.tensors(), buffer, version=version, adapter=weights.adapter)
        self._newest = replace(written, merge_error=weights.merge_error)
        return self._sender.announce(self._newest, seats=seats)

    def announce_again(self, *, seats: Sequence[Seat]) -> Locator | None:
        """Make the newest payload fetchable once more (None off rank 0)."""
        if self._sender is None:
            return None
        assert self._newest is not None, "nothing was staged yet"
        return self._sender.announce(self._newest, seats=seats)

    def send(self) -> None:
        """Take part in the transfer (rank 0); returns when the bytes left."""
        if self._sender is not None:
            self._sender.send()

    def release(self, version: int) -> None:
        if self._sender is not None:
            self._sender.release(version)

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()
