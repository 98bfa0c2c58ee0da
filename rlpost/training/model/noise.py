"""NEFTune: noise on the input embeddings of a forward pass that learns, arXiv 2310.05914.

Owns the columns that ask for it and the numbers. Invariants: the noise of a sequence is a function
of its key, its length and the model's width alone, so micro-batches, packing, ranks and a resumed
run change nothing; its size follows the sequence's own length, never the packed one.

Legend: T packed tokens, E width, U units.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlpost.training.packing.batch import MicroBatch

KEY, ALPHA = "neftune_key_U", "neftune_alpha_U"


def neftune_columns(
    names: Sequence[str], *, alpha: float, seed: int, step: int
) -> dict[str, np.ndarray]:
    """Return the columns that have units learn with noise; none for ``alpha`` 0.

    Args:
        names: of the units, in the order in which they are packed; each occurs once in a step.
        alpha: the paper's; the noise is uniform in +-alpha / sqrt(tokens * width).
        seed: of the run.
        step: of the run.
    """
    if alpha == 0:
        return {}
    keys = [_key(f"{seed}:{step}:{name}") for name in names]
    return {KEY: np.array(keys, np.int64), ALPHA: np.full(len(keys), alpha, np.float32)}


def _key(text: str) -> int:
    """Return a number of 63 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


@dataclass(frozen=True, kw_only=True)
class EmbeddingNoise:
    """What a micro-batch's noise is made from."""

    keys_U: list[int]
    alphas_U: list[float]  # 0: none
    spans_U: list[tuple[int, int]]  # tokens [start, end) of each unit

    @classmethod
    def of(cls, batch: MicroBatch) -> "EmbeddingNoise | None":
        """Read the columns of a batch; None where it has none."""
        if KEY not in batch.columns:
            return None
        spans = [(block.prompt[0], block.responses[-1][1]) for block in batch.blocks]
        assert len(spans) == len(batch.number_U), "each unit must be a block of its own"
        return cls(
            keys_U=batch.columns[KEY].tolist(),
            alphas_U=batch.columns[ALPHA].tolist(),
            spans_U=spans,
        )

    def behind(self, num: int) -> "EmbeddingNoise":
        """Return the noise of the same tokens when ``num`` others go in front of each unit."""
        spans = [
            (start + num * (i + 1), end + num * (i + 1))
            for i, (start, end) in enumerate(self.spans_U)
        ]
        return replace(self, spans_U=spans)

    def from_token(self, start: int) -> "EmbeddingNoise":
        """Return the noise of the tokens from ``start`` on, counted from there."""
        return replace(self, spans_U=[(first - start, end - start) for first, end in self.spans_U])

    def like(self, embedded_1TE: Tensor) -> Tensor:
        """Return the noise of every token, in the shape and type of the embeddings.

        Units may begin before the first of them and end behind the last.
        """
        noise_1TE = torch.zeros_like(embedded_1TE)
        num, width = embedded_1TE.shape[1:]
        for key, alpha, (start, end) in zip(self.keys_U, self.alphas_U, self.spans_U, strict=True):
            first, last = max(start, 0), min(end, num)
            if alpha > 0 and first < last:
                generator = torch.Generator(embedded_1TE.device).manual_seed(key)
                shape = (end - start, width)
                uniform_LE = torch.rand(shape, generator=generator, device=embedded_1TE.device)
                size = alpha / math.sqrt((end - start) * width)
                noise_LE = size * (2 * uniform_LE - 1)
                noise_1TE[0, first:last] = noise_LE[first - start : last - start]
        return noise_1TE


@contextmanager
def added_to_embeddings(model: Any, noise: EmbeddingNoise | None) -> Iterator[None]:
    """Add noise to what the model's input embeddings return; None adds nothing."""
    if noise is None:
        yield
        return

    def add(module: nn.Module, args: Any, embedded_1TE: Tensor) -> Tensor:
        return embedded_1TE + noise.like(embedded_1TE)

    handle = model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
