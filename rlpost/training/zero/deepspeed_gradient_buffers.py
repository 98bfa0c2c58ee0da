"""What DeepSpeed keeps of gradients between two steps, given back while the model sleeps.

Owns which of its buffers say nothing between two steps: float32 sums (of the whole model at stage 1
in bfloat16, of a rank's part at stage 3), the bucket in which stage 3 reduces, and the gradients of
the last pass. Refuses to own the sum of a lone rank at stage 2, which is made anew anyway
(deepspeed_gradients.py), and what is worth keeping (training/parking.py). Invariant: a step after
``restore`` computes the bits that it would have computed without: sums begin at 0.

Storages are emptied and filled again, never replaced: DeepSpeed holds views into them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class GradientBuffers:
    """Of one engine, while no gradient waits for an update.

    Args:
        engine: DeepSpeed's.
        device: whose memory is given back; an offloaded optimizer's sums are elsewhere.
    """

    def __init__(self, engine: Any, *, device: torch.device) -> None:
        self._module = engine.module
        self._buffers = [each for each in _buffers(engine) if each.device == device]
        self._sizes = [each.untyped_storage().nbytes() for each in self._buffers]

    def release(self) -> None:
        """Give the memory back until the next step."""
        for parameter in self._module.parameters():
            parameter.grad = None
        for buffer in self._buffers:
            buffer.untyped_storage().resize_(0)

    def restore(self) -> None:
        """Make what was given back anew; nothing happens when nothing was."""
        for buffer, size in zip(self._buffers, self._sizes, strict=True):
            if buffer.untyped_storage().nbytes() < size:
                buffer.untyped_storage().resize_(size)
                buffer.zero_()


def _buffers(engine: Any) -> Iterator[Tensor]:
    optimizer = engine.optimizer
    yield from getattr(optimizer, "fp32_groups_gradients_flat", ())  # stage 1 in bfloat16
    if engine.zero_optimization_stage() == 3:
        yield optimizer.grad_partitions_flat_buffer
        yield from (bucket.buffer for bucket in optimizer.ipg_buckets.values())
