"""Which transport a run has, and which one a push takes.

Owns the names and the rule of ``auto``. Refuses to own bytes. Invariant: what is announced can be
fetched from every seat that it was announced for.
"""

from collections.abc import Collection, Sequence
from enum import Enum
from pathlib import Path

import torch

from rlpost.weights.manifest import PushManifest
from rlpost.weights.transports.filesystem import FilesystemSender
from rlpost.weights.transports.gloo import GlooSender
from rlpost.weights.transports.protocol import Locator, Seat, Sender
from rlpost.weights.transports.shared_memory import SharedMemorySender, shared_memory_id


class Transport(Enum):
    """How payloads travel; what ``auto`` means is said by ``transport_between``."""

    auto = "auto"
    shared_memory = "shared_memory"
    gloo = "gloo"
    filesystem = "filesystem"


def transport_between(trainer: str, generators: Collection[str]) -> Transport:
    """Return what ``auto`` takes: shared memory if every generator sits where the trainer does.

    Args:
        trainer: where its first rank sits, which sends.
        generators: where those sit that receive, in the same words.

    Example: ``transport_between("n1", ["n1", "n2"]) is Transport.gloo``
    """
    return Transport.shared_memory if set(generators) <= {trainer} else Transport.gloo


class AutoSender:
    """Chooses for every push; see ``protocol.Sender``.

    Generators join and move while a run goes on, so the choice is made for those that take part.
    The payload lies in shared memory either way.

    Args:
        run_id: names the run among all of a host.
        host: address under which receivers reach this process.
        timeout_s: deadline of every wait; None: by the size of each payload.
    """

    def __init__(self, *, run_id: str, host: str, timeout_s: float | None) -> None:
        here = SharedMemorySender(run_id=run_id)
        self._senders: dict[Transport, Sender] = {
            Transport.shared_memory: here,
            Transport.gloo: GlooSender(host=host, timeout_s=timeout_s, pages=here),
        }
        self._chosen = Transport.shared_memory

    @property
    def _sender(self) -> Sender:
        return self._senders[self._chosen]

    def buffer(self, size_bytes: int, *, version: int) -> torch.Tensor:
        return self._sender.buffer(size_bytes, version=version)

    def announce(self, manifest: PushManifest, *, seats: Sequence[Seat]) -> Locator:
        self._chosen = transport_between(shared_memory_id(), [seat.memory for seat in seats])
        return self._sender.announce(manifest, seats=seats)

    def send(self) -> None:
        self._sender.send()

    def release(self, version: int) -> None:
        self._sender.release(version)

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()


def make_sender(
    transport: Transport, *, run_id: str, root: Path, host: str, timeout_s: float | None
) -> Sender:
    """Build the sending end of a transport.

    Args:
        transport: which one.
        run_id: names the run among all of a host.
        root: directory for payloads that travel in files.
        host: address under which receivers reach this process.
        timeout_s: deadline of every wait; None: by the size of each payload.
    """
    match transport:
        case Transport.auto:
            return AutoSender(run_id=run_id, host=host, timeout_s=timeout_s)
        case Transport.shared_memory:
            return SharedMemorySender(run_id=run_id)
        case Transport.filesystem:
            return FilesystemSender(root=root)
        case Transport.gloo:
            pages = SharedMemorySender(run_id=run_id)
            return GlooSender(host=host, timeout_s=timeout_s, pages=pages)
