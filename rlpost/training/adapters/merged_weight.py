"""The weight of a module with its adapter merged in, whatever the adapter's kind.

Owns the arithmetic, in float32. Refuses to own files and streaming (merging/). Invariant: the
base's tensor is never changed.

Source: DoRA, https://arxiv.org/abs/2402.09353.

Legend: I inputs, O outputs of a module.
"""

import torch
from torch import Tensor

from rlpost.training.adapters.plain_lora import product
from rlpost.training.adapters.saved import SavedAdapter


def merged_weight(adapter: SavedAdapter, module: str, base_OI: Tensor) -> Tensor:
    """Return the module's weight, float32, in the layout of ``base_OI``.

    Args:
        adapter: of a kind that changes weights.
        module: one of ``adapter.modules``.
        base_OI: the base's own weight; (I, O) where the configuration says ``fan_in_fan_out``.
    """
    swapped = bool(adapter.config.get("fan_in_fan_out"))
    weight_OI = (base_OI.T if swapped else base_OI).float()
    parts = adapter.modules[module]
    a, b = product(adapter, module, inputs=weight_OI.shape[1])
    merged_OI = weight_OI + b.float() @ a.float()
    magnitude_O = parts.get("lora_magnitude_vector")
    if magnitude_O is not None:
        norm_O = torch.linalg.norm(merged_OI, dim=1)
        merged_OI = merged_OI * (magnitude_O.float().flatten() / norm_O)[:, None]
    return merged_OI.T if swapped else merged_OI
