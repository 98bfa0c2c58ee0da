"""How much of a GPU's arithmetic an update uses.

Owns the peaks, the clock between two steps and what counts: a forward pass as packing/work.py
counts it, and twice that backwards; recomputation, padding and the optimizer count nothing.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rlpost.roofline.devices import device_named
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.packing.work import ForwardWork

PASSES = 3  # one forward, and a backward that costs two


def peak_flops(device_name: str) -> float | None:
    """Return a GPU's peak, operations a second in bfloat16; None when it is not known.

    Example: ``peak_flops("NVIDIA H100 80GB HBM3") == 989e12``
    """
    device = device_named(device_name)
    return None if device is None else device.peak_flops


def training_flops(work: ForwardWork, batches: Sequence[MicroBatch]) -> float:
    """Useful operations of a forward and a backward pass over ``batches``."""
    return float(PASSES * sum(work.of_batch(batch) for batch in batches))


class Meter:
    """Which share of a device's peak a step used: operations over the time that it was busy."""

    def __init__(self, work: ForwardWork, *, peak: float) -> None:
        self._work, self._peak = work, peak
        self._flops = self._busy_s = 0.0

    @contextmanager
    def busy(self, batches: Sequence[MicroBatch] = ()) -> Iterator[None]:
        """Measure work, and count what a forward and a backward pass over ``batches`` need."""
        start_s = time.perf_counter()
        yield
        self._busy_s += time.perf_counter() - start_s
        self._flops += training_flops(self._work, batches)

    def take(self) -> float | None:
        """Return the share since the last call; None if nothing was counted."""
        share = self._flops / self._busy_s / self._peak if self._flops else None
        self._flops = self._busy_s = 0.0
        return share
