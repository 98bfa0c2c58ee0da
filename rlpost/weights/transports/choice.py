"""Which transport a run has, and which one a push takes.

Owns the names and the rule of ``auto``. Refuses to own bytes. Invariant: what is announced can be
fetched from every seat that it was announced for.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch

from rlpost.errors import UserError
from rlpost.network import LOOPBACK
from rlpost.weights.transports.cuda_ipc_wire import CudaIpcWire
from rlpost.weights.transports.filesystem import FilesystemSender
from rlpost.weights.transports.gloo_wire import GlooWire
from rlpost.weights.transports.host_pages import host_pages
from rlpost.weights.transports.nccl_wire import NcclWire
from rlpost.weights.transports.protocol import Seat, StagedSender, StreamingSender
from rlpost.weights.transports.shared_memory import SharedMemorySender, shared_memory_id
from rlpost.weights.transports.stream_sender import StreamSender
from rlpost.weights.transports.wire import Wire


class Transport(Enum):
    """How payloads travel; what ``auto`` means is said by ``transport_between``."""

    auto = "auto"
    shared_memory = "shared_memory"
    gloo = "gloo"
    nccl = "nccl"
    cuda_ipc = "cuda_ipc"
    filesystem = "filesystem"


def transport_between(trainer: str, generators: Collection[str]) -> Transport:
    """Return what ``auto`` takes: shared memory if every generator sits where the trainer does.

    NCCL and CUDA IPC have to be asked for: they have not run on GPUs yet.

    Args:
        trainer: where its first rank sits, which sends.
        generators: where those sit that receive, in the same words.

    Example: ``transport_between("n1", ["n1", "n2"]) is Transport.gloo``
    """
    return Transport.shared_memory if set(generators) <= {trainer} else Transport.gloo


# The transports that stream, and what they differ in.
WIRES: dict[Transport, Callable[[], Wire]] = {
    Transport.gloo: GlooWire,
    Transport.nccl: NcclWire,
    Transport.cuda_ipc: CudaIpcWire,
}
_BETWEEN_GPUS = (Transport.nccl, Transport.cuda_ipc)


def require_device(transport: Transport, *, on_gpu: bool) -> None:
    """Refuse what moves GPU memory where models are on CPUs.

    Raises:
        UserError: it does.
    """
    if transport in _BETWEEN_GPUS and not on_gpu:
        raise UserError(
            f"weights.transport={transport.value} moves weights between GPUs, and this run is on "
            "CPUs (cluster.device); use weights.transport=auto"
        )


def require_places(
    transport: Transport,
    *,
    trainer: str,
    generators: Collection[str],
    shares_gpu: bool,
    without_rank: int,
) -> None:
    """Refuse a transport that does not reach from the trainer to every generator.

    Args:
        transport: which one.
        trainer: where its first rank sits, which sends.
        generators: where those sit that receive, in the same words.
        shares_gpu: whether a generator has a GPU on which the trainer's first rank is.
        without_rank: generators that share their GPU with no rank of the trainer.

    Raises:
        UserError: it does not.
    """
    away = set(generators) - {trainer}
    if transport is Transport.cuda_ipc and without_rank:
        raise UserError(
            f"weights.transport=cuda_ipc reaches a generator from the trainer's rank on its GPU, "
            f"and {without_rank} of the generators share theirs with none; use "
            "cluster.placement=colocated, or weights.transport=nccl or auto"
        )
    if transport is Transport.shared_memory and away:
        raise UserError(
            f"weights.transport={transport.value} reaches generators on the trainer's host alone, "
            f"and {len(away)} of their hosts are others; use weights.transport=auto"
        )
    if transport is Transport.nccl and shares_gpu:
        raise UserError(
            "weights.transport=nccl needs GPUs that trainer and generators do not share, because "
            "NCCL refuses two members on one; use weights.transport=cuda_ipc or auto, or "
            "cluster=disaggregated"
        )


@dataclass(frozen=True, kw_only=True)
class Senders:
    """The sending ends that a trainer has: one, or both to choose from for every push.

    Generators join and move while a run goes on, so the choice is made for those that take part.
    """

    staged: StagedSender | None = None
    stream: StreamingSender | None = None

    def stages(self, seats: Sequence[Seat]) -> bool:
        """Whether a push to these seats is written down before it is fetched."""
        if self.staged is None or self.stream is None:
            return self.stream is None
        here = transport_between(shared_memory_id(), [seat.memory for seat in seats])
        return here is Transport.shared_memory

    def release(self, version: int) -> None:
        """Free what belongs to ``version``; harmless when it is gone already."""
        if self.staged is not None:
            self.staged.release(version)

    def close(self) -> None:
        """Free everything."""
        for each in (self.staged, self.stream):
            if each is not None:
                each.close()


def make_senders(
    transport: Transport,
    *,
    run_id: str,
    root: Path,
    host: str,
    timeout_s: float | None,
    on_gpu: bool = False,
    rank: int = 0,
) -> Senders | None:
    """Build the sending ends that one rank of the trainer has; None: it does not send.

    Args:
        transport: which one.
        run_id: names the run among all of a host.
        root: directory for payloads that travel in files.
        host: address under which receivers reach this process.
        timeout_s: deadline of a payload; None: by its size.
        on_gpu: whether models are.
        rank: over CUDA IPC every rank sends to the generators on its GPU, else the first to all.
    """
    if rank > 0 and transport is not Transport.cuda_ipc:
        return None
    pages = host_pages(torch.device("cuda" if on_gpu else "cpu"))

    def stream(over: Transport) -> StreamSender:
        return StreamSender(
            WIRES[over](), run_id=run_id, host=host, timeout_s=timeout_s, pages=pages
        )

    match transport:
        case Transport.auto:
            staged = SharedMemorySender(run_id=run_id, pages=pages)
            return Senders(staged=staged, stream=stream(Transport.gloo))
        case Transport.shared_memory:
            return Senders(staged=SharedMemorySender(run_id=run_id, pages=pages))
        case Transport.filesystem:
            return Senders(staged=FilesystemSender(root=root))
        case Transport.cuda_ipc:
            run_id, host = f"{run_id}-{rank}", LOOPBACK  # each has a ring, and reaches its own host
            return Senders(stream=stream(transport))
        case _:
            return Senders(stream=stream(transport))
