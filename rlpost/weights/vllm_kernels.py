"""The weights of a vLLM worker as its kernels hold them.

Owns what there is to read in a model that was loaded. Refuses to own the digest and the comparison
(kernel_digest.py). Invariant: every weight that a push sets is covered, also where a kernel keeps a
packed copy of its own that no tensor shows.
"""

from collections.abc import Iterator
from typing import Any

import torch
import xxhash
from torch import nn
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.platforms import current_platform

from rlpost.weights.word_sums import word_sums

_ROWS = 256  # of an identity at a time


@torch.no_grad()
def kernel_digest(model: nn.Module) -> tuple[str, str]:
    """Return the digest of the layout and that of the contents."""
    # Another kind of device may lay the same weights out in another way.
    layout, sums = xxhash.xxh3_128(current_platform.get_device_name().encode()), []
    for name, tensor in _held(model):
        layout.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        sums.append(word_sums(tensor))
    words = torch.stack(sums).cpu().numpy().tobytes()  # the only time that the device is waited for
    return layout.hexdigest(), xxhash.xxh3_128_hexdigest(words)


def _held(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, layer in model.named_modules(remove_duplicate=True):
        tensors = dict(layer.named_parameters(recurse=False)) | {
            name: buffer
            for name, buffer in layer.named_buffers(recurse=False)
            if name not in layer._non_persistent_buffers_set
        }
        for name, tensor in tensors.items():
            yield f"{prefix}.{name}", tensor
        if getattr(layer, "cpu_linear", nn.functional.linear) is not nn.functional.linear:
            for first, product in _packed(layer):
                yield f"{prefix} from {first}", product


def _packed(layer: Any) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the weight that vLLM's CPU kernel has packed, as its product with an identity.

    The packed copy lies behind a handle, and the weight itself is often gone. The product is
    exact: each of its values is one weight, and zeros.
    """
    weight = layer.weight
    set_by_push = get_layerwise_info(layer).restore_metadata[0]
    if "weight" not in set_by_push:  # nothing that is pushed reaches it: it stays as it was read
        return
    _, width = set_by_push["weight"].shape
    for first in range(0, width, _ROWS):
        rows = torch.zeros(min(_ROWS, width - first), width, dtype=weight.dtype)
        rows[torch.arange(len(rows)), torch.arange(len(rows)) + first] = 1
        yield first, layer.cpu_linear(rows, weight, None)
