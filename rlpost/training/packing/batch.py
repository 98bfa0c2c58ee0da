"""What a trainer consumes: packed tokens, no padding.

Owns the layout of one micro-batch. Refuses to own how units are distributed over
micro-batches and ranks (pack.py) and what the columns mean (algorithms/).

Legend: T packed tokens, R scored tokens (those that the head reads), I items, U units.

Layout of one block: ``[prompt][item 1]..[item n]``. The prompt is computed once; every item
attends to the prompt and to itself only, and its positions restart at the prompt's length. A
single sequence is a block with one item. An item's first token is predicted from the prompt's
last token, so ``read_R`` is not ``target index - 1``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

_DTYPES = (np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.bool_))


@dataclass(frozen=True, kw_only=True)
class Block:
    """Token ranges ``[start, end)`` of a prompt and of the responses that share it.

    Example: ``Block(prompt=(0, 5), responses=((5, 9), (9, 12)))``
    """

    prompt: tuple[int, int]
    responses: tuple[tuple[int, int], ...]

    def behind(self, num: int, *, before: int) -> "Block":
        """Return its ranges when ``num`` tokens go in front of it, as of ``before`` blocks before.

        They are part of the prompt.
        """
        shift = num * (before + 1)
        return Block(
            prompt=(self.prompt[0] + num * before, self.prompt[1] + shift),
            responses=tuple((start + shift, end + shift) for start, end in self.responses),
        )


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One micro-batch of one rank.

    ``columns`` hold what an objective or a head needs beside the tokens: one value for each scored
    token (a name that ends in ``_R``) or for each unit (``_U``), or several (``_RK``). ``weight_R``
    and ``weight_U`` hold every mask and denominator: the loss of the whole optimizer batch is the
    sum of weight times value over all micro-batches and ranks. A dummy (so that ranks run equally
    many micro-batches) has zeros in every column.
    """

    token_ids_T: np.ndarray  # int64
    position_ids_T: np.ndarray  # int64
    blocks: tuple[Block, ...]
    read_R: np.ndarray  # int64: index in T whose hidden state predicts the token
    token_R: np.ndarray  # int64: index in T of the token itself
    item_R: np.ndarray  # int64: which item of this batch, 0 to I - 1, in order
    unit_I: np.ndarray  # int64: which unit of this batch, 0 to U - 1, in order
    number_I: np.ndarray  # int64: the items' numbers in the optimizer batch
    number_U: np.ndarray  # int64: the units' places in what was packed
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    is_dummy: bool = False

    def __post_init__(self) -> None:
        lengths = {"R": len(self.token_R), "U": len(self.number_U)}
        for name, array in self.columns.items():
            shape = name.rpartition("_")[2]
            assert len(array) == lengths[shape[0]], (name, array.shape, lengths)
            assert array.ndim == len(shape), (name, array.shape)
            assert array.dtype in _DTYPES, (name, array.dtype)

    @property
    def target_R(self) -> np.ndarray:
        """The ids of the scored tokens, int64."""
        return self.token_ids_T[self.token_R]

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids_T)
