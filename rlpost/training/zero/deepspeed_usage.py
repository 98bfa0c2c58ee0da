"""What the steps of one rank use: memory, and a device's share of its peak.

Owns these metrics. Refuses to own times (stages/performance.py) and what a plan expects
(training/memory.py). Invariant: nothing here changes what is computed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from rlpost.training.flops import Meter, peak_flops
from rlpost.training.model.heads import LogprobHead
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.packing.work import ForwardWork
from rlpost.training.zero.deepspeed_state import kept_bytes
from rlpost.training.zero.deepspeed_weights import weight_shapes


class Usage:
    """Measures one engine.

    Args:
        engine: DeepSpeed's.
        model: what is trained; names the metrics.
        dtype: that it computes in.
        device: that it computes on.
        sharing: ranks that work on each micro-batch together.
    """

    def __init__(
        self,
        engine: Any,
        model: TrainedModel,
        *,
        dtype: torch.dtype,
        device: torch.device,
        sharing: int = 1,
    ) -> None:
        self._engine, self._labels, self._device = engine, model.labels, device
        self.meter = _meter(engine, model, dtype=dtype, device=device, sharing=sharing)

    @contextmanager
    def busy(self, batches: Sequence[MicroBatch] = ()) -> Iterator[None]:
        """Count work, and what passes over ``batches`` need; ends when the device has done it."""
        if self.meter is None:
            yield
            return
        with self.meter.busy(batches):
            yield
            if self._device.type == "cuda":
                torch.cuda.synchronize()  # an update is only queued

    def metrics(self) -> dict[str, float]:
        """Return memory in GB, and the share since the last call where the peak is known."""
        name = self._labels.memory
        result = {
            f"perf/{name or 'trainer_'}memory_gb": psutil.Process().memory_info().rss / 1e9,
            f"perf/{name}optimizer_state_gb": kept_bytes(self._engine.basic_optimizer) / 1e9,
        }
        if self._device.type == "cuda":
            peak_gb = torch.cuda.max_memory_allocated() / 1e9
            result[f"perf/{name}max_memory_allocated_gb"] = peak_gb
        if self.meter and (share := self.meter.take()) is not None:
            result[f"perf/mfu/{self._labels.metrics}"] = share
        return result


def _meter(
    engine: Any,
    model: TrainedModel,
    *,
    dtype: torch.dtype,
    device: torch.device,
    sharing: int,
) -> Meter | None:
    """Return a meter of a policy on a device whose peak is known."""
    if device.type != "cuda" or dtype is not torch.bfloat16:
        return None
    peak = peak_flops(torch.cuda.get_device_name(device))
    trained = engine.module.model
    shapes = weight_shapes(trained)
    # Of a mixture of experts a token meets some only: the count would be too high.
    counted = not any("experts" in name for name, _, _ in shapes)
    if peak is None or not counted or not isinstance(model.head, LogprobHead):
        return None
    work = ForwardWork.of(trained.config.get_text_config(), shapes)
    return Meter(work, peak=sharing * peak)
