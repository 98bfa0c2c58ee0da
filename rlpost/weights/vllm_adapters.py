"""Adapters in vLLM's worker: from verified tensors into the kernels, and out again.

Owns what lies between a payload and vLLM's LoRA manager. Refuses to own which versions are needed
(rollout/adapter_pushes.py). Invariants: every tensor of an adapter is applied to a layer, or the
adapter is refused, because vLLM drops what it does not know without a word; there is never more to
hold than there is room for, so vLLM evicts nothing: it would look for an evicted adapter on disk,
and end.
"""

from collections.abc import Sequence
from typing import Any

from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import PushManifest, Tensors


class HeldAdapters:
    """The adapters of one worker.

    Args:
        workers: vLLM's ``LRUCacheWorkerLoRAManager``.
    """

    def __init__(self, workers: Any) -> None:
        self._config = workers.lora_config
        self._max_positions = workers.max_position_embeddings
        self._vocab_size = workers.vocab_size
        self._manager = workers._adapter_manager
        self._received: LoRAModel | None = None

    def receive(self, manifest: PushManifest, tensors: Tensors) -> None:
        """Prepare an adapter whose bytes are verified; the kernels stay as they are.

        Raises:
            WeightPushError: vLLM cannot serve it, or would apply a part of it only.
        """
        self._received = None
        try:
            settings = PEFTHelper.from_dict(
                {**(manifest.adapter or {}), "vllm_max_position_embeddings": self._max_positions}
            )
            settings.validate_legal(self._config)
            self._received = LoRAModel.from_lora_tensors(
                manifest.version,
                # vLLM multiplies them by their scale in place, and the payload is not its own.
                {name: tensor.clone() for name, tensor in tensors},
                settings,
                device="cpu",
                dtype=self._config.lora_dtype,
                model_vocab_size=self._vocab_size,
                weights_mapper=self._renaming(),
            )
        except (ValueError, RuntimeError) as error:
            raise WeightPushError(f"version {manifest.version}: {error}") from error
        self._refuse_unapplied(self._received)

    def _renaming(self) -> Any:
        mapper = getattr(self._manager.model, "hf_to_vllm_mapper", None)
        return None if mapper is None else mapper.get_rename_mapper()

    def _refuse_unapplied(self, adapter: LoRAModel) -> None:
        packed = {part for parts in self._manager.packed_modules.values() for part in parts}
        known = self._manager.modules.keys() | packed
        unknown = sorted(adapter.loras.keys() - known)
        if unknown:
            self._received = None
            raise WeightPushError(
                f"version {adapter.id}: the engine has no adapters for {unknown[:3]} "
                f"({len(unknown)})"
            )

    def load(self, version: int, *, keep: Sequence[int]) -> None:
        """Put the adapter that was received into the kernels, beside ``keep`` alone.

        Raises:
            WeightPushError: none of that version was received, or there is no room.
        """
        adapter, self._received = self._received, None
        if adapter is None or adapter.id != version:
            raise WeightPushError(f"no verified adapter of version {version} to load")
        self.keep(keep)
        if len(self._manager) >= self._manager.capacity:
            raise WeightPushError(
                f"no room for version {version} beside {sorted(self._manager.list_adapters())}"
            )
        self._manager.add_adapter(adapter)
        self._manager.activate_adapter(version)

    def keep(self, versions: Sequence[int]) -> None:
        """Remove all adapters but these."""
        self._received = None
        for version in set(self._manager.list_adapters()) - set(versions):
            self._manager.remove_adapter(version)
