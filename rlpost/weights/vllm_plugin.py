"""The receiving end inside vLLM's worker: verify, load, commit or go back.

Registered through the ``vllm.general_plugins`` entry point as weight-transfer backend
``rlpost``. Owns what happens between the arrival of bytes and the model's kernels. Refuses
to own versions and deadlines (bus.py), and how kernels are reloaded and restored
(vllm_reload.py, vllm_way_back.py).

Invariants: what reaches the model was verified before, and reaches it only while the scheduler is
paused; from the first tensor on until the version is committed there is an exact way back to the
committed one, if there is one at all.
"""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.platforms import current_platform

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import PushManifest, Tensors
from rlpost.weights.transports.choice import WIRES
from rlpost.weights.transports.cuda_runtime import gpu_id
from rlpost.weights.transports.filesystem import FilesystemReceiver
from rlpost.weights.transports.host_pages import HostPages, host_pages
from rlpost.weights.transports.protocol import Locator, Receiver
from rlpost.weights.transports.shared_memory import SharedMemoryReceiver
from rlpost.weights.transports.stream_receiver import StreamReceiver
from rlpost.weights.transports.wire import Wire
from rlpost.weights.vllm_adapters import HeldAdapters
from rlpost.weights.vllm_kernels import kernel_digest
from rlpost.weights.vllm_reload import OpenReload
from rlpost.weights.vllm_way_back import way_back_for

BACKEND = "rlpost"
_LORA_ON_CPU = "rlpost.weights.vllm_lora_on_cpu.LoRAOnCPU"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _streams(wire: Callable[[], Wire], pages: HostPages) -> Receiver:
    return StreamReceiver(wire(), pages=pages)


_RECEIVERS: dict[str, Callable[[HostPages], Receiver]] = {
    "shared_memory": SharedMemoryReceiver,
    "filesystem": lambda pages: FilesystemReceiver(),
    **{over.value: partial(_streams, wire) for over, wire in WIRES.items()},
}


def register() -> None:
    """Entry point: make the backend known to vLLM, in every process that loads plugins."""
    if multiprocessing.parent_process() is not None:
        _end_with_parent()
        # Where models are loaded; whoever starts an engine need not import their loaders.
        from rlpost.weights import vllm_blank

        vllm_blank.register()
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, __name__, "BucketEngine")
    if current_platform.is_cpu():
        type(current_platform).get_punica_wrapper = classmethod(lambda _: _LORA_ON_CPU)


def _end_with_parent() -> None:
    """Have the kernel kill this process of an engine when the process that started it ends.

    vLLM's own watch is a thread of the child, and a child that is killed at a bad moment, or
    that still boots, went on computing for nobody.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it has ended already
        os._exit(1)


@dataclass
class BucketInitInfo(WeightTransferInitInfo):
    """Nothing to agree on beforehand: each push carries its own locator."""


@dataclass
class BucketUpdateInfo(WeightTransferUpdateInfo):
    """A ``Locator`` as plain fields."""

    transport: str
    manifest: dict[str, Any]
    where: dict[str, Any] = field(default_factory=dict)


class BucketEngine(WeightTransferEngine[BucketInitInfo, BucketUpdateInfo]):
    """vLLM weight-transfer engine that loads a version as it arrives, and can undo it."""

    init_info_cls = BucketInitInfo
    update_info_cls = BucketUpdateInfo

    def __init__(
        self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._pages = host_pages(device)
        self._receivers: dict[str, Receiver] = {}
        self._reload: OpenReload | None = None  # of the version that is undecided
        self._way_back = way_back_for(device)
        self._committed = False  # whether what the way back leads to was ever committed
        # Whether the kernels hold nothing that can be served; see vllm_blank.py.
        self._empty = vllm_config.load_config.load_format == "rlpost_blank"

    def init_transfer_engine(self, init_info: BucketInitInfo) -> None:
        """Nothing to open: see ``BucketInitInfo``."""

    def start_weight_update(self) -> None:
        """Nothing to prepare: the model is touched once something is there to load."""

    def receive_weights(self, update_info: BucketUpdateInfo) -> None:
        """Load a payload as it arrives, each bucket once it is verified.

        Raises:
            WeightPushError: incomplete, damaged or unreachable; ``rollback`` comes next.
        """
        locator = Locator(
            transport=update_info.transport,
            manifest=update_info.manifest,
            where=update_info.where,
        )
        with closing(self.buckets(locator)) as buckets:
            for tensors in buckets:
                if self._reload is None:
                    self._way_back.take(self.model)
                    self._reload = OpenReload(self.model, self.model_config, device=self.device)
                self._reload.load(tensors)

    def buckets(self, locator: Locator) -> Iterator[Tensors]:
        """Yield the parts of a payload, each verified; see ``Receiver``."""
        if locator.transport not in self._receivers:
            self._receivers[locator.transport] = _RECEIVERS[locator.transport](self._pages)
        return self._receivers[locator.transport].buckets(locator)

    def finish_weight_update(self) -> None:
        """Finish the kernels of what was received.

        Raises:
            WeightPushError: nothing was received, or the model has tensors it did not set.
        """
        if self._reload is None:
            raise WeightPushError("no verified payload to load")
        self._reload.finish()
        self._empty = False

    def commit(self) -> None:
        """Make the loaded version the one to go back to."""
        self._reload, self._committed = None, True
        self._way_back.committed(self.model)

    def forget_kernels(self) -> None:
        """The kernels' memory was given away: what they hold is undefined."""
        self._give_up()
        self._empty = True

    def rollback(self) -> bool:
        """Undo what was loaded since the last commit.

        Returns:
            False when there is nothing to go back to: what the kernels hold is then nothing that
            was ever committed.
        """
        if self._reload is None and not self._empty:
            return True
        self._give_up()
        self._committed = self._way_back.restore(self.model) and self._committed
        self._empty = not self._committed
        return self._committed

    def _give_up(self) -> None:
        if self._reload is not None:
            self._reload.give_up()
            self._reload = None

    def shutdown(self) -> None:
        for receiver in self._receivers.values():
            receiver.close()


class WorkerExtension:
    """Methods that vLLM mixes into its worker, reached by ``collective_rpc``."""

    def rlpost_alive(self) -> bool:
        return True

    def rlpost_gpu(self) -> str | None:
        """What names its GPU in every process; None: it has none."""
        device = self.device  # type: ignore[attr-defined]
        return None if device.type == "cpu" else gpu_id(device)

    def rlpost_kernel_digest(self) -> tuple[str, str]:
        return kernel_digest(self.model_runner.get_model())  # type: ignore[attr-defined]

    def rlpost_commit(self) -> None:
        self.weight_transfer_engine.commit()  # type: ignore[attr-defined]

    def rlpost_forget_kernels(self) -> None:
        self.weight_transfer_engine.forget_kernels()  # type: ignore[attr-defined]

    def rlpost_rollback(self) -> bool:
        # vLLM has no verb for it: an update that began and got nothing would stay open.
        self._weight_update_active = False
        self.weight_transfer_engine.reset_weight_update_target()  # type: ignore[attr-defined]
        with set_current_vllm_config(self.vllm_config):  # type: ignore[attr-defined]
            return self.weight_transfer_engine.rollback()  # type: ignore[attr-defined]

    def rlpost_receive_adapter(
        self, transport: str, manifest: dict[str, Any], where: dict[str, Any], first_rank: int
    ) -> None:
        where = {**where, "rank": first_rank + self.rank}  # type: ignore[attr-defined]
        locator = Locator(transport=transport, manifest=manifest, where=where)
        engine = self.weight_transfer_engine  # type: ignore[attr-defined]
        with closing(engine.buckets(locator)) as buckets:
            # An adapter is applied as a whole, and a bucket lasts until the next.
            tensors = [(name, tensor.clone()) for part in buckets for name, tensor in part]
        self._adapters.receive(PushManifest.from_dict(manifest), tensors)

    def rlpost_load_adapter(self, version: int, keep: Sequence[int]) -> None:
        self._adapters.load(version, keep=keep)

    def rlpost_keep_adapters(self, versions: Sequence[int]) -> None:
        self._adapters.keep(versions)

    @property
    def _adapters(self) -> HeldAdapters:
        if not hasattr(self, "_held_adapters"):  # vLLM mixes this in without a constructor
            self._held_adapters = HeldAdapters(
                self.model_runner.lora_manager  # type: ignore[attr-defined]
            )
        return self._held_adapters
