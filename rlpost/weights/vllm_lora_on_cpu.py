"""LoRA of a batch on a CPU: one pair of matrix products per adapter, not per token.

Owns how vLLM's linear layers add their adapters where there is no GPU. Refuses to own which request
has which adapter (vLLM's mapping). vLLM 0.32 gathers both matrices anew for every token, which made
rollouts of SmolLM2-135M six times slower, and gives a token without an adapter the one in the
last slot. Invariant: a row gets the adapter of its request, and nothing else.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

_NONE = -1  # vLLM's slot of a token without an adapter

Rows = Tensor | slice


class LoRAOnCPU(PunicaWrapperCPU):
    """See ``vllm.lora.punica_wrapper.PunicaWrapperBase``."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        self._rows = rows_of_slots(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add ``scale * x A^T B^T`` to the columns of each projection that is packed in ``y``.

        Shapes: y ``[..., sum(output_slices)]``, x ``[..., d_in]``, A ``[slots, 1, rank, d_in]``,
        B ``[slots, 1, d_out, rank]``.
        """
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, rows in self._rows:
            inputs, start = x[rows], 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                delta = functional.linear(functional.linear(inputs, a[slot, 0]), b[slot, 0])
                y[rows, start : start + width] += scale * delta
                start += width


def rows_of_slots(slots: Tensor) -> list[tuple[int, Rows]]:
    """Return the rows of each adapter in a batch, int64 ``[tokens]`` of slots, -1 for none."""
    found = [slot for slot in torch.unique(slots).tolist() if slot != _NONE]
    if len(found) == 1 and slots.numel() and bool((slots == found[0]).all()):
        return [(found[0], slice(0, slots.numel()))]
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in found]
