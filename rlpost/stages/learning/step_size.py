"""How much a step packs of the rows that it learns from.

Owns the bound. Refuses to own what room is made for it (cluster/store_size.py, stages/estimate.py).
"""

from typing import Any

import numpy as np

from rlpost.data.splits import Splits
from rlpost.training.packing.step_size import StepSize


def step_of_rows(cfg: Any, splits: Splits, *, more_bytes: int = 0) -> StepSize:
    """Return the size of a step that draws the longest rows of all sources.

    Args:
        cfg: a ``LearningConfig``.
        splits: the rows.
        more_bytes: of columns beside the usual ones, of one token.
    """
    lengths_N = np.concatenate([each.lengths_N for each in splits.train.corpora.values()])
    longest_N = np.resize(np.sort(lengths_N)[::-1], cfg.examples_per_step)
    usual = StepSize(tokens=int(longest_N.sum()))
    return StepSize(tokens=usual.tokens, column_bytes=usual.column_bytes + more_bytes)
