"""How much of a GPU's arithmetic an update uses.

Owns the count of useful operations and the peaks. Refuses to own the clock. Counted as in the
appendix of PaLM (arXiv 2204.02311): a weight costs two operations a token forwards and four
backwards; recomputation, padding and the optimizer count nothing. Here the head is applied to
response tokens alone, and attention is counted pair by pair, causal, with shared prompts once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rlpost.training.batch import Block, TokenBatch

PASSES = 3  # one forward, and a backward that costs two

# NVIDIA's data sheets: bfloat16 tensor cores, dense. The first name that occurs, in whole words,
# decides.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
}


def peak_flops(device_name: str) -> float | None:
    """Return a GPU's peak, operations a second in bfloat16; None when it is not known.

    Example: ``peak_flops("NVIDIA H100 80GB HBM3") == 989e12``
    """
    found = (peak for name, peak in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", device_name))
    return next(found, None)


@dataclass(frozen=True, kw_only=True)
class PolicyCost:
    """Example: ``PolicyCost(body=106_000_000, head=28_000_000, attention=30 * 576)``."""

    body: int  # weights that every token is multiplied with
    head: int  # weights that every response token is multiplied with
    attention: int  # layers * heads * head_dim

    def training_flops(self, batches: Sequence[TokenBatch]) -> float:
        """Useful operations of a forward and a backward pass over ``batches``."""
        total = 0
        for batch in batches:
            if not batch.is_dummy:
                pairs = sum(attended_pairs(block) for block in batch.blocks)
                # Of a pair: the product of query and key, and the weighting of the value.
                total += 2 * self.body * batch.num_tokens + 2 * self.head * len(batch.target_R)
                total += 4 * self.attention * pairs
        return float(PASSES * total)


def attended_pairs(block: Block) -> int:
    """Pairs of a token and one that it attends to, itself included."""
    prompt = block.prompt[1] - block.prompt[0]
    lengths = [end - start for start, end in block.responses]
    return _triangle(prompt) + sum(prompt * length + _triangle(length) for length in lengths)


def _triangle(length: int) -> int:
    return length * (length + 1) // 2
