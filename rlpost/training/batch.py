"""What a trainer consumes: packed tokens, no padding.

Owns the layout of one micro-batch. Refuses to own how samples are distributed over
micro-batches and ranks (packing.py) and what the numbers mean (algorithms/).

Legend: T packed tokens, R response tokens (those that carry a loss), S sequences.

Layout of one block: ``[prompt][response 1]..[response n]``. The prompt is computed once;
every response attends to the prompt and to itself only, and its positions restart at the
prompt's length. A single sequence is a block with one response. A response's first token
is predicted from the prompt's last token, so ``predictor_R`` is not ``target index - 1``.
"""

from dataclasses import dataclass

import numpy as np

_OPTIONAL = {
    "ref_logprobs_R": np.float32,
    "proximal_logprobs_R": np.float32,
    "values_R": np.float32,
    "returns_R": np.float32,
    "selected_R": np.bool_,
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """Token ranges ``[start, end)`` of a prompt and of the responses that share it.

    Example: ``Block(prompt=(0, 5), responses=((5, 9), (9, 12)))``
    """

    prompt: tuple[int, int]
    responses: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """One micro-batch of one rank.

    ``loss_weight_R`` holds every mask and denominator: the loss of the whole optimizer
    batch is ``sum(loss_weight_R * per_token_loss_R)`` over all micro-batches and ranks.
    A dummy (so that ranks run equally many micro-batches) has weight 0 everywhere.
    """

    token_ids_T: np.ndarray  # int64
    position_ids_T: np.ndarray  # int64
    blocks: tuple[Block, ...]
    predictor_R: np.ndarray  # int64: index in T whose hidden state predicts the token
    target_R: np.ndarray  # int64: token id
    sequence_R: np.ndarray  # int64: index of the sequence in the optimizer batch
    rollout_logprobs_R: np.ndarray  # float32, nats, temperature applied
    advantages_R: np.ndarray  # float32
    loss_weight_R: np.ndarray  # float32
    ref_logprobs_R: np.ndarray | None = None  # float32
    proximal_logprobs_R: np.ndarray | None = None  # float32: policy before this optimizer batch
    values_R: np.ndarray | None = None  # float32: the critic's own, when the batch was collected
    returns_R: np.ndarray | None = None  # float32: what the critic should have said
    selected_R: np.ndarray | None = None  # bool: tokens that a loss on a subset looks at
    is_dummy: bool = False

    def __post_init__(self) -> None:
        for name, dtype in _OPTIONAL.items():
            array = getattr(self, name)
            if array is None:
                continue
            assert array.shape == self.target_R.shape, (name, array.shape, self.target_R.shape)
            assert array.dtype == dtype, (name, array.dtype)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids_T)
