"""One layerwise reload of vLLM that stays open while the parts of a version arrive.

Owns what lies between verified tensors and the kernels. Refuses to own the way back
(vllm_way_back.py). Invariants: a tensor that a layer waits with, because the rest of it has not
come yet, is a copy, so that its bucket can be filled anew; a version that left a parameter unset is
refused; nothing that vLLM packs beside its parameters stays behind.

Source: ``vllm/model_executor/model_loader/reload/layerwise.py`` of vLLM 0.32.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import Tensors

_CACHE_SCALES = (".q_scale", ".k_scale", ".v_scale", ".prob_scale")


class OpenReload:
    """See the module.

    Args:
        model: whose kernels are replaced.
        config: vLLM's, of that model.
        device: of the kernels.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, config: Any, *, device: torch.device) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._model, self._config, self._on_cpu = model, config, device.type == "cpu"
        self._loaded: set[str] | None = set()
        self._open = True
        named = {name for name, _ in model.named_parameters()}
        self._kernels = self._set_packed_experts_aside()
        initialize_layerwise_reload(model)
        # Some are made by processing what was loaded, as the scales of a quantized layer are.
        self._expected = named & {name for name, _ in model.named_parameters()}

    @torch.no_grad()
    def load(self, tensors: Tensors) -> None:
        """Load a part of the version, which may be overwritten afterwards."""
        loaded = self._model.load_weights(iter(tensors))
        self._loaded = None if loaded is None or self._loaded is None else self._loaded | loaded
        self._copy_what_waits(tensors)

    def _copy_what_waits(self, tensors: Tensors) -> None:
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        volatile = {tensor.untyped_storage().data_ptr() for _, tensor in tensors}
        for layer in self._model.modules():
            for _, call in get_layerwise_info(layer).loaded_weights:
                for name, value in call.arguments.items():
                    if (
                        isinstance(value, torch.Tensor)
                        and not value.is_meta
                        and value.untyped_storage().data_ptr() in volatile
                    ):
                        call.arguments[name] = value.clone()

    @torch.no_grad()
    def finish(self) -> None:
        """Have the kernels compute what was loaded.

        Raises:
            WeightPushError: it was not the whole model.
        """
        self._close()
        self._repack_tied_head()
        missing = []
        if self._loaded is not None:
            missing = sorted(sent_names(self._expected) - self._loaded)
        if missing:
            raise WeightPushError(f"the payload left {missing[:3]} ({len(missing)}) unset")

    @torch.no_grad()
    def give_up(self) -> None:
        """Close it without what waits; layers that were whole hold the new version."""
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        for layer in self._model.modules():
            info = get_layerwise_info(layer)
            info.loaded_weights.clear()
            info.load_numel = 0
        self._close()

    def _close(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        if not self._open:
            return
        try:
            finalize_layerwise_reload(self._model, self._config)
            self._open = False
        finally:
            for method, kernel in self._kernels:
                if method.moe_kernel is None:  # none of its weights came
                    method.moe_kernel = kernel

    def _set_packed_experts_aside(self) -> list[tuple[Any, Any]]:
        # vLLM packs a mixture's experts for the CPU kernel when it builds that kernel, and skips
        # this in a reload because a GPU's graphs need the old addresses: the kernel would read
        # plain weights as packed ones. Without a kernel it builds and packs again.
        if not self._on_cpu:
            return []
        methods = [
            module.quant_method
            for module in self._model.modules()
            if getattr(getattr(module, "quant_method", None), "moe_kernel", None) is not None
        ]
        kernels = [(method, method.moe_kernel) for method in methods]
        for method in methods:
            method.moe_kernel = None
        return kernels

    def _repack_tied_head(self) -> None:
        # A tied lm_head gets no tensor of its own, so the reload skips it and the CPU
        # kernel would keep its packed copy of the old embedding: new body, old head.
        if not self._on_cpu or not self._config.hf_config.tie_word_embeddings:
            return
        from vllm.model_executor.layers.vocab_parallel_embedding import (
            ParallelLMHead,
            VocabParallelEmbedding,
        )

        tables = [m for m in self._model.modules() if isinstance(m, VocabParallelEmbedding)]
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
