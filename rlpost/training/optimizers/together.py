"""Several of torch's optimizers as one.

Owns nothing of the arithmetic. Invariant: groups and state are the parts' own, so code that
replaces the parameters of a group (DeepSpeed puts float32 masters there) also replaces those of the
part.
"""

from collections.abc import Sequence
from typing import Any

import torch


class Together(torch.optim.Optimizer):
    """Example: ``Together([muon_of_matrices, adamw_of_the_rest]).step()``"""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = tuple(parts)
        self.param_groups = [group for part in parts for group in part.param_groups]
        for part in parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:
        """Update with every part."""
        assert closure is None, "the gradient is there already"
        for part in self._parts:
            part.step()
