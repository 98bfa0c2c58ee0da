"""How much of a GPU's arithmetic an update uses.

Owns the count of useful operations, the peaks and the clock between two steps. Counted as in the
appendix of PaLM (arXiv 2204.02311): a weight costs two operations a token forwards and four
backwards; recomputation, padding and the optimizer count nothing. Here the head is applied to
response tokens alone, and attention is counted pair by pair, causal, with shared prompts once.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rlpost.models.naming import Shapes
from rlpost.roofline.devices import device_named
from rlpost.training.packing.batch import Block, MicroBatch

PASSES = 3  # one forward, and a backward that costs two


def peak_flops(device_name: str) -> float | None:
    """Return a GPU's peak, operations a second in bfloat16; None when it is not known.

    Example: ``peak_flops("NVIDIA H100 80GB HBM3") == 989e12``
    """
    device = device_named(device_name)
    return None if device is None else device.peak_flops


@dataclass(frozen=True, kw_only=True)
class PolicyCost:
    """Example: ``PolicyCost(body=106_000_000, head=28_000_000, attention=30 * 576)``."""

    body: int  # weights that every token is multiplied with
    head: int  # weights that every response token is multiplied with
    attention: int  # layers * heads * head_dim

    @classmethod
    def of(cls, config: Any, shapes: Shapes) -> "PolicyCost":
        """Count a causal language model with this text config and these parameters."""
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        vocabulary = config.vocab_size * config.hidden_size
        matrices = sum(math.prod(shape) for _, _, shape in shapes if len(shape) > 1)
        tied = getattr(config, "tie_word_embeddings", False)
        return cls(
            body=matrices - vocabulary * (1 if tied else 2),
            head=vocabulary,
            attention=config.num_hidden_layers * heads * head_dim,
        )

    def training_flops(self, batches: Sequence[MicroBatch]) -> float:
        """Useful operations of a forward and a backward pass over ``batches``."""
        total = 0
        for batch in batches:
            if not batch.is_dummy:
                pairs = sum(attended_pairs(block) for block in batch.blocks)
                # Of a pair: the product of query and key, and the weighting of the value.
                total += 2 * self.body * batch.num_tokens + 2 * self.head * len(batch.target_R)
                total += 4 * self.attention * pairs
        return float(PASSES * total)


class Meter:
    """Which share of a device's peak a step used: operations over the time that it was busy."""

    def __init__(self, cost: PolicyCost, *, peak: float) -> None:
        self._cost, self._peak = cost, peak
        self._flops = self._busy_s = 0.0

    @contextmanager
    def busy(self, batches: Sequence[MicroBatch] = ()) -> Iterator[None]:
        """Measure work, and count what a forward and a backward pass over ``batches`` need."""
        start_s = time.perf_counter()
        yield
        self._busy_s += time.perf_counter() - start_s
        self._flops += self._cost.training_flops(batches)

    def take(self) -> float | None:
        """Return the share since the last call; None if nothing was counted."""
        share = self._flops / self._busy_s / self._peak if self._flops else None
        self._flops = self._busy_s = 0.0
        return share


def attended_pairs(block: Block) -> int:
    """Pairs of a token and one that it attends to, itself included."""
    prompt = block.prompt[1] - block.prompt[0]
    lengths = [end - start for start, end in block.responses]
    return _triangle(prompt) + sum(prompt * length + _triangle(length) for length in lengths)


def _triangle(length: int) -> int:
    return length * (length + 1) // 2
