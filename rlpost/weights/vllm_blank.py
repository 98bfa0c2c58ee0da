"""A vLLM model loader that reads no file, for an engine that gets its weights by a push.

Owns what the parameters hold until then. Refuses to own who may ask such an engine
(rollout/whole_pushes.py). Invariant: whatever no checkpoint contains, such as the buffers of
rotary embeddings, is as the model's own code made it, so a first push that sets every parameter
leaves the same kernels as one into an engine that read its files.

vLLM's own ``dummy`` does not keep that: it overwrites buffers that are saved with a model, and
does not look whether a checkpoint brings an output layer of its own.
"""

import torch
from torch import nn
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

LOAD_FORMAT = "rlpost_blank"
# No zero, which kernels that derive scales from weights divide by.
_FILLING = 2.0**-10


def register() -> None:
    """Make the loader known to vLLM, in the process that loads a model."""
    register_model_loader(LOAD_FORMAT)(BlankLoader)


class BlankLoader(DummyModelLoader):
    """Fills parameters with a constant, which takes one pass over the memory and no disk."""

    @torch.no_grad()
    def load_weights(self, model: nn.Module, model_config: object) -> None:
        for layer in model.modules():
            info = get_layerwise_info(layer)
            if info.can_load():  # it is quantized as it loads, so it does not exist before
                self._process_online_quant_layer(layer, info)
                continue
            for parameter in layer.parameters(recurse=False):
                if parameter.is_floating_point() and not parameter.is_meta:
                    parameter.data.fill_(_FILLING)
