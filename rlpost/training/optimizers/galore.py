"""GaLore: Adam's moments of a gradient's projection onto its leading directions, arXiv 2403.03507.

Owns the projection and the update. Refuses to own which parameters are trained. Invariants: a
basis is never taken from a gradient of zeros; the directions of a basis keep their signs when it
is taken anew, because the moments stay in the coordinates of the one before.

Legend: M rows, N columns, K rank, of one matrix. With M >= N the basis holds right singular
vectors, (N, K), and the projection is (M, K); else left ones, (M, K) and (K, N).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlpost.bounds import number
from rlpost.training.optimizers.adamw import zeros
from rlpost.training.optimizers.base import (
    COUNT,
    OptimizerConfig,
    Parameter,
    Place,
    optimizers,
)
from rlpost.training.optimizers.per_tensor import PerTensor, adam_direction, apply
from rlpost.training.settings import TrainerConfig


@dataclass(kw_only=True)
class GaLoreConfig(OptimizerConfig):
    """AdamW in a low-rank projection of each matrix's gradient, arXiv 2403.03507."""

    kind: str = "galore"
    rank: int = number(
        128,
        at_least=1,
        at_most=10**5,
        hint="the paper uses 128 to 1024",
        help="directions of a gradient that are kept; smaller matrices are updated by AdamW",
    )
    gap: int = number(
        200, at_least=1, at_most=10**7, help="updates after which the directions are taken anew"
    )
    scale: float = number(
        0.25, above=0, at_most=1000, help="factor on the learning rate of projected matrices"
    )


@optimizers.register("galore", GaLoreConfig)
class GaLore:
    """GaLore for matrices of the decoder's layers and AdamW for the rest, as ``Optimizer``."""

    name = "galore"
    elementwise = False

    def __init__(self, cfg: GaLoreConfig, trainer: TrainerConfig) -> None:
        self._cfg, self._trainer = cfg, trainer

    def options(self, parameter: Parameter) -> dict[str, Any]:
        matrix = parameter.place is Place.hidden and len(parameter.shape) == 2
        projects = matrix and min(parameter.shape) > self._cfg.rank
        return {"rank": self._cfg.rank if projects else None}

    def state(self, tensor: Tensor, group: Mapping[str, Any], *, step: int) -> dict[str, Any]:
        rank = group["rank"]
        if rank is None:
            return {COUNT: step, "exp_avg": zeros(tensor), "exp_avg_sq": zeros(tensor)}
        rows, columns = tensor.shape
        projected = (rows, rank) if rows >= columns else (rank, columns)
        return {
            COUNT: step,
            "basis": zeros(tensor, min(rows, columns), rank),
            "exp_avg": zeros(tensor, *projected),
            "exp_avg_sq": zeros(tensor, *projected),
            # Of this matrix alone: the first gradients of a fresh adapter's may be zeros.
            "updates": torch.zeros((), dtype=torch.int64, device=tensor.device),
        }

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return PerTensor(groups, trainer=self._trainer, kind=self, update=self._update)

    def _update(
        self, weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if group["rank"] is None:
            apply(weight, adam_direction(gradient, state, group, step=state[COUNT]), group)
            return
        done = int(state["updates"])
        if done % self._cfg.gap == 0 and gradient.any():
            state["basis"].copy_(leading_basis(gradient, state["basis"], rank=group["rank"]))
        elif done == 0:
            return  # a gradient of zeros has no directions
        state["updates"] += 1
        basis, tall = state["basis"], gradient.shape[0] >= gradient.shape[1]
        projected = gradient @ basis if tall else basis.T @ gradient
        direction = adam_direction(projected, state, group, step=done + 1)
        whole = direction @ basis.T if tall else basis @ direction
        apply(weight, whole.mul_(self._cfg.scale), group)


def leading_basis(gradient_MN: Tensor, before: Tensor, *, rank: int) -> Tensor:
    """Return the ``rank`` leading singular vectors of a gradient's shorter side, as columns.

    Each has the sign with which it lies on the side of its predecessor in ``before``, zeros when
    there is none. Singular vectors have no sign of their own, and the moments have one.
    """
    left, _, right = torch.linalg.svd(gradient_MN, full_matrices=False)
    rows, columns = gradient_MN.shape
    basis = right[:rank].T if rows >= columns else left[:, :rank]
    flips = torch.where((basis * before).sum(0) < 0, -1.0, 1.0)
    return basis * flips
