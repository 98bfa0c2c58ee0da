"""Packed batches that are only scored, never trained on.

Owns the layout of bare token ids. Refuses to own the split over micro-batches (packing.py).
"""

from collections.abc import Sequence

import numpy as np

from rlpost.training.batch import Block, TokenBatch


def scoring_batch(
    blocks: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
) -> TokenBatch:
    """Lay out ``(prompt, responses)`` blocks for scoring only; every loss field is zero."""
    token_ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    laid_out: list[Block] = []
    for prompt, responses in blocks:
        assert prompt and responses
        start, end = len(token_ids), len(token_ids) + len(prompt)
        token_ids += prompt
        positions += range(len(prompt))
        ranges = []
        for response in responses:
            first = len(token_ids)
            token_ids += response
            positions += range(len(prompt), len(prompt) + len(response))
            predictors += [end - 1, *range(first, first + len(response) - 1)]
            targets += response
            ranges.append((first, first + len(response)))
        laid_out.append(Block(prompt=(start, end), responses=tuple(ranges)))
    zeros_R = np.zeros(len(targets), dtype=np.float32)
    return TokenBatch(
        token_ids_T=np.array(token_ids, dtype=np.int64),
        position_ids_T=np.array(positions, dtype=np.int64),
        blocks=tuple(laid_out),
        predictor_R=np.array(predictors, dtype=np.int64),
        target_R=np.array(targets, dtype=np.int64),
        sequence_R=np.zeros(len(targets), dtype=np.int64),
        rollout_logprobs_R=zeros_R,
        advantages_R=zeros_R,
        loss_weight_R=zeros_R,
    )
