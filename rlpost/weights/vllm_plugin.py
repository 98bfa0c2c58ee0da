"""The receiving end inside vLLM's worker: stage, verify, load, keep the way back.

Registered through the ``vllm.general_plugins`` entry point as weight-transfer backend
``rlpost``. Owns what happens between the arrival of bytes and the model's kernels. Refuses
to own versions and deadlines (bus.py).

Invariants: nothing touches the model before all bytes are there and their checksums match;
the payload being served stays referenced until its successor is committed, so a version
that fails its probe can be undone as long as no other payload took its pages; what is loaded to
undo it is verified once more.
"""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from rlpost.weights.manifest import PushManifest, Tensors, read_payload
from rlpost.weights.transports.filesystem import FilesystemReceiver
from rlpost.weights.transports.gloo import GlooReceiver
from rlpost.weights.transports.protocol import Locator, Receiver
from rlpost.weights.transports.shared_memory import SharedMemoryReceiver
from rlpost.weights.vllm_adapters import HeldAdapters
from rlpost.weights.vllm_kernels import kernel_digest

BACKEND = "rlpost"
_LORA_ON_CPU = "rlpost.weights.vllm_lora_on_cpu.LoRAOnCPU"
_CACHE_SCALES = (".q_scale", ".k_scale", ".v_scale", ".prob_scale")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_RECEIVERS: dict[str, type[Receiver]] = {
    "shared_memory": SharedMemoryReceiver,
    "filesystem": FilesystemReceiver,
    "gloo": GlooReceiver,
}


@dataclass(frozen=True)
class Payload:
    """A version that verified when it arrived."""

    manifest: PushManifest
    buffer: torch.Tensor  # uint8
    tensors: Tensors  # views of it


def register() -> None:
    """Entry point: make the backend known to vLLM, in every process that loads plugins."""
    if multiprocessing.parent_process() is not None:
        _end_with_parent()
        # Where models are loaded; whoever starts an engine need not import their loaders.
        from rlpost.weights import vllm_blank

        vllm_blank.register()
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, __name__, "StagedEngine")
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
class StagedInitInfo(WeightTransferInitInfo):
    """Nothing to agree on beforehand: each push carries its own locator."""


@dataclass
class StagedUpdateInfo(WeightTransferUpdateInfo):
    """A ``Locator`` as plain fields."""

    transport: str
    manifest: dict[str, Any]
    where: dict[str, Any] = field(default_factory=dict)


class StagedEngine(WeightTransferEngine[StagedInitInfo, StagedUpdateInfo]):
    """vLLM weight-transfer engine that loads a version only after it verified."""

    init_info_cls = StagedInitInfo
    update_info_cls = StagedUpdateInfo

    def __init__(
        self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._receivers: dict[str, Receiver] = {}
        self._staged: Payload | None = None
        self._loaded: Payload | None = None  # what the kernels hold
        self._committed: Payload | None = None  # what they go back to
        # Whether the kernels hold nothing that can be served; see vllm_blank.py.
        self._empty = vllm_config.load_config.load_format == "rlpost_blank"

    def init_transfer_engine(self, init_info: StagedInitInfo) -> None:
        """Nothing to open: see ``StagedInitInfo``."""

    def start_weight_update(self) -> None:
        self._staged = None

    def receive_weights(self, update_info: StagedUpdateInfo) -> None:
        """Fetch and verify a payload; the model stays as it is.

        Raises:
            WeightPushError: incomplete, damaged or unreachable.
        """
        self._staged = self.fetch(
            Locator(
                transport=update_info.transport,
                manifest=update_info.manifest,
                where=update_info.where,
            )
        )

    def fetch(self, locator: Locator) -> Payload:
        """Return a payload that verified.

        Raises:
            WeightPushError: incomplete, damaged or unreachable.
        """
        if locator.transport not in self._receivers:
            self._receivers[locator.transport] = _RECEIVERS[locator.transport]()
        buffer = self._receivers[locator.transport].fetch(locator)
        manifest = PushManifest.from_dict(locator.manifest)
        return Payload(manifest, buffer, read_payload(manifest, buffer))

    def finish_weight_update(self) -> None:
        """Load the staged payload.

        Raises:
            WeightPushError: nothing was staged, or the model has tensors it did not set.
        """
        if self._staged is None:
            raise WeightPushError("no verified payload to load")
        self._loaded, self._staged = self._staged, None
        self._load(self._loaded.tensors)
        self._empty = False

    def commit(self) -> None:
        """Make the loaded version the one to go back to."""
        self._committed = self._loaded

    def forget_kernels(self) -> None:
        """The kernels' memory was given away: what they hold is undefined."""
        self._staged, self._empty = None, True

    def rollback(self) -> bool:
        """Load the committed version again unless the kernels hold it still.

        Returns:
            False when it is needed and there is none, or no longer: what the kernels hold is
            then nothing that was ever committed.
        """
        self._staged = None
        if self._empty or self._loaded is not self._committed:
            if self._committed is None:
                return False
            try:
                tensors = read_payload(self._committed.manifest, self._committed.buffer)
            except WeightPushError:  # its pages were released, or another payload is in them
                return False
            self._loaded = self._committed
            self._load(tensors)
            self._empty = False
        return True

    def shutdown(self) -> None:
        for receiver in self._receivers.values():
            receiver.close()

    @torch.no_grad()
    def _load(self, tensors: Tensors) -> None:
        from vllm.model_executor.model_loader.reload import (
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        held = {name for name, _ in self.model.named_parameters()}
        with self._repacked_experts():
            initialize_layerwise_reload(self.model)
            # By now the layers have the form of a checkpoint again, without what the engine has
            # made of it, such as the scales of weights that it rounds itself.
            expected = held & {name for name, _ in self.model.named_parameters()}
            try:
                loaded = self.model.load_weights(iter(tensors))
            finally:
                # Also when a tensor is refused half-way: an open reload could not be loaded over.
                finalize_layerwise_reload(self.model, self.model_config)
        self._repack_tied_head()
        missing = sorted(sent_names(expected) - loaded) if loaded is not None else []
        if missing:
            raise WeightPushError(f"the payload left {missing[:3]} ({len(missing)}) unset")

    @contextmanager
    def _repacked_experts(self) -> Iterator[None]:
        # vLLM packs a mixture's experts for the CPU kernel when it builds that kernel, and skips
        # this in a reload because a GPU's graphs need the old addresses: the kernel would read
        # plain weights as packed ones. Without a kernel it builds and packs again.
        methods = [
            module.quant_method
            for module in self.model.modules()
            if getattr(getattr(module, "quant_method", None), "moe_kernel", None) is not None
        ]
        kernels = [method.moe_kernel for method in methods]
        if self.device.type == "cpu":
            for method in methods:
                method.moe_kernel = None
        try:
            yield
        finally:
            for method, kernel in zip(methods, kernels, strict=True):
                if method.moe_kernel is None:  # none of its weights came
                    method.moe_kernel = kernel

    def _repack_tied_head(self) -> None:
        # A tied lm_head gets no tensor of its own, so the reload skips it and the CPU
        # kernel would keep its packed copy of the old embedding: new body, old head.
        if self.device.type != "cpu" or not self.model_config.hf_config.tie_word_embeddings:
            return
        from vllm.model_executor.layers.vocab_parallel_embedding import (
            ParallelLMHead,
            VocabParallelEmbedding,
        )

        tables = [m for m in self.model.modules() if isinstance(m, VocabParallelEmbedding)]
        heads = [m for m in tables if isinstance(m, ParallelLMHead)]
        if not heads:
            return  # the embedding itself is the head
        (head,) = heads
        # Tables of positions, as GPT-2 has, are no VocabParallelEmbedding of this size.
        (embedding,) = (
            m for m in tables if m is not head and m.num_embeddings == head.num_embeddings
        )
        head.weight = embedding.weight
        head.quant_method.process_weights_after_loading(head)


def sent_names(parameters: Iterable[str]) -> set[str]:
    """Return what a payload must set of an engine's parameters, as ``load_weights`` names it.

    The scales of a key-value cache are the engine's own; a layer that holds adapters calls the
    model's layer inside of it ``base_layer``.
    """
    return {
        name.replace(".base_layer.", ".") for name in parameters if not name.endswith(_CACHE_SCALES)
    }


class WorkerExtension:
    """Methods that vLLM mixes into its worker, reached by ``collective_rpc``."""

    def rlpost_alive(self) -> bool:
        return True

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
        payload = self.weight_transfer_engine.fetch(locator)  # type: ignore[attr-defined]
        self._adapters.receive(payload.manifest, payload.tensors)

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
