"""The sending end, inside the trainer's ranks.

Owns the payload of the version being pushed, and what it asks of the weights. Refuses to own the
trainer: it gets an iterator of named tensors, which every rank must exhaust because gathering is
collective under ZeRO-3. Rank 0 holds senders, and other ranks where each sends to the generators
on its own GPU (transports/choice.py). Invariant: what is sent as a version is what the
model was when that version was staged, however late; or it is not sent.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from rlpost.bounds import WEEK_S, number, option
from rlpost.errors import WeightPushError
from rlpost.weights.manifest import (
    PushManifest,
    Tensors,
    describe,
    payload_size_bytes,
    read_payload,
    write_payload,
)
from rlpost.weights.transports.choice import (
    Senders,
    Transport,
    make_senders,
    require_device,
)
from rlpost.weights.transports.protocol import Locator, Seat

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
        help="pushes of whole models between comparisons of vLLM's kernels; null: none",
    )


def sender_factory(
    cfg: WeightsConfig, *, run_id: str, root: Path, on_gpu: bool
) -> Callable[..., Senders | None]:
    """Return what builds the sending ends where it is called with its ``host`` and its ``rank``.

    Args:
        cfg: which transport, and its deadline.
        run_id: names the run among all of a host.
        root: directory for payloads that travel in files.
        on_gpu: whether models are.

    Raises:
        UserError: the transport needs GPUs, and there are none.
    """
    require_device(cfg.transport, on_gpu=on_gpu)
    return partial(
        make_senders,
        cfg.transport,
        run_id=run_id,
        root=root,
        timeout_s=cfg.timeout_s,
        on_gpu=on_gpu,
    )


class ServedWeights(Protocol):
    """What generators get of a model that is trained."""

    @property
    def adapter(self) -> Mapping[str, Any] | None:
        """peft's configuration of the adapter that they are; None: they are a whole model."""

    @property
    def merge_error(self) -> float | None:
        """The norm of what rounding took of a merged adapter, over its own; of the last pass."""

    def shapes(self) -> Shapes:
        """Return name, dtype and shape of every tensor, in order."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors; collective on all ranks. One may be the live weight."""


class WeightPublisher:
    """Turns the trainer's current weights into payloads that generators get.

    Args:
        source: returns the weights, awake.
        senders: of this rank; None: it does not send.
    """

    def __init__(self, source: Callable[[], ServedWeights], *, senders: Senders | None) -> None:
        self._source = source
        self._size_bytes = payload_size_bytes(source().shapes())
        self._senders = senders
        self._newest: PushManifest | None = None
        self._written: torch.Tensor | None = None  # the newest payload, if it lies somewhere
        self._streams = False  # what was announced last
        self._changed = False  # whether the weights are others by now

    def changed(self) -> None:
        """The weights are others from now on."""
        self._changed = True

    def stages(self, *, seats: Sequence[Seat]) -> bool | None:
        """Whether a push to these seats is written down first; None: this rank does not send."""
        return None if self._senders is None else self._senders.stages(seats)

    def stage(self, version: int, *, seats: Sequence[Seat], written: bool) -> Locator | None:
        """Have the weights of this moment be version ``version``.

        Args:
            version: its number.
            seats: of who receives it.
            written: what rank 0 said ``stages``.

        Returns:
            Where it is, or will be sent; None: this rank does not send.
        """
        weights, self._changed = self._source(), False
        self._newest = self._written = None  # of an earlier version, whose weights are gone
        if self._senders is None:
            if written:
                _exhaust(weights.tensors())
            return None
        if not written:
            self._newest = describe(weights.shapes(), version=version, adapter=weights.adapter)
            return self._announce(seats)
        assert self._senders.staged is not None, "stages said so"
        tensors = weights.tensors()
        try:
            pages = self._senders.staged.buffer(self._size_bytes, version=version)
            self._newest = write_payload(tensors, pages, version=version, adapter=weights.adapter)
        except WeightPushError:
            _exhaust(tensors)  # the other ranks go on gathering
            raise
        self._written = pages
        return self._announce(seats)

    def announce_again(self, *, seats: Sequence[Seat]) -> Locator | None:
        """Make the newest payload fetchable once more, from these seats.

        Returns:
            Where it is; None: this rank does not send, or it is gone, because it could not be
            written down or the trainer has learned since.
        """
        if self._senders is None or self._newest is None:
            return None
        if self._changed and self._written is None:
            return None
        return self._announce(seats)

    def _announce(self, seats: Sequence[Seat]) -> Locator:
        assert self._senders is not None and self._newest is not None
        if self._written is not None and self._senders.stages(seats):
            assert self._senders.staged is not None, "stages said so"
            self._streams = False
            return self._senders.staged.announce(self._newest, seats=seats)
        assert self._senders.stream is not None, "what was not written down is streamed"
        self._streams = True
        locator = self._senders.stream.announce(self._newest, seats=seats)
        return replace(locator, live=self._written is None)

    def send(self, *, live: bool) -> float | None:
        """Take part in the transfer.

        Args:
            live: what the locator says: the weights are gathered meanwhile, on every rank.

        Returns:
            The merge error of what is sent; see ``ServedWeights``.

        Raises:
            WeightPushError: somebody did not take part, or the weights are others by now.
        """
        weights = self._source()
        if self._senders is None:
            if live and not self._changed:
                _exhaust(weights.tensors())
        elif self._streams:
            assert self._senders.stream is not None
            tensors = self._unchanged(weights) if live else iter(self._from_pages())
            try:
                self._senders.stream.send(tensors)
            except WeightPushError:
                _exhaust(tensors)  # the other ranks go on gathering
                raise
        return weights.merge_error

    def _unchanged(self, weights: ServedWeights) -> Iterator[tuple[str, torch.Tensor]]:
        if self._changed:
            raise WeightPushError("the trainer has learned since; the next push brings more")
        yield from weights.tensors()

    def _from_pages(self) -> Tensors:
        assert self._newest is not None and self._written is not None
        return read_payload(self._newest, self._written)

    def release(self, version: int) -> None:
        if self._senders is not None:
            self._senders.release(version)

    def close(self) -> None:
        if self._senders is not None:
            self._senders.close()


def _exhaust(tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    for _ in tensors:
        pass
