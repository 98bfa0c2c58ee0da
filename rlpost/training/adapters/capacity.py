"""Whether a low-rank adapter is large enough for what its data asks of the weights beside it.

Owns the algebra of one weight: the part of its gradient that an adapter can follow, energies of
gradients, and the spectrum of an update. Refuses to own where gradients come from
(gradient_energy.py) and what a person should do (control.small_adapter.py). Pure.

At the point (A, B) an adapter can change its weight by ``dB A + B dA``. With P_A and P_B, the
projectors on the rows of A and on the columns of B, the part of a gradient G in that space is
``P_B G + G P_A - P_B G P_A``, and the rest is ``(1 - P_B) G (1 - P_A)``. A fresh adapter has B = 0,
so that only ``G P_A`` is left: which directions those are was drawn by chance, and a large rest
says nothing there about the rank.

The gradient of a few rows is mostly noise, and noise has every direction, so that most of it is
outside any adapter. Energies are therefore kept for two halves of the rows: what is common to both,
the inner product of their gradients, is an unbiased estimate of the energy of the mean gradient.

Legend: r rank, I inputs, O outputs of a module, T tokens, K directions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1e-5  # of the largest singular value: a direction below it is rounding


def rows_basis(matrix_KI: Tensor) -> Tensor:
    """Return orthonormal columns, (I, K), that span the rows of a matrix; none of zeros."""
    _, values, right = torch.linalg.svd(matrix_KI.float(), full_matrices=False)
    largest = values.max() if values.numel() else 0.0
    return right[(values > SMALLEST * largest) & (values > 0)].T


def outside(matrix: Tensor, basis: Tensor) -> Tensor:
    """Return the rows of a matrix without their part in the span of ``basis``."""
    return matrix - (matrix @ basis) @ basis.T


def unreachable(gradient_OI: Tensor, *, a_rI: Tensor, b_Or: Tensor) -> Tensor:
    """Return the part of a weight's gradient that no change of A and B follows, (O, I)."""
    by_inputs = outside(gradient_OI, rows_basis(a_rI))
    return outside(by_inputs.T, rows_basis(b_Or.T)).T


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Squared norms of the gradients of two halves of the rows, and their inner product.

    They add up over weights.

    Example: ``Energy.of(first_OI, second_OI) + Energy.of(other_first, other_second)``
    """

    first: float = 0.0
    second: float = 0.0
    common: float = 0.0

    def __add__(self, other: "Energy") -> "Energy":
        return Energy(
            first=self.first + other.first,
            second=self.second + other.second,
            common=self.common + other.common,
        )

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> "Energy":
        """Return the energies of two gradients of one weight."""
        return cls(
            first=float(first.square().sum()),
            second=float(second.square().sum()),
            common=float((first * second).sum()),
        )

    @property
    def whole(self) -> float:
        """Energy of the gradient of all rows."""
        return self.first + self.second + 2 * self.common

    @property
    def agreement(self) -> float | None:
        """Cosine between the gradients of the halves; None: a half has none."""
        product = self.first * self.second
        return self.common / product**0.5 if product > 0 else None


def energies(
    x_TI: Tensor, g_TO: Tensor, in_first_T: Tensor, *, a_rI: Tensor, b_Or: Tensor
) -> tuple[Energy, Energy]:
    """Return the energy of a weight's gradient ``g^T x``, and that of its unreachable part.

    Args:
        x_TI: what the module read.
        g_TO: gradient of what it gave.
        in_first_T: bool, which tokens belong to the first half of the rows.
        a_rI: of the adapter; (0, I) where there is none.
        b_Or: of the adapter, too.
    """
    x_TI, g_TO = x_TI.float(), g_TO.float()
    halves = [g_TO[mask].T @ x_TI[mask] for mask in (in_first_T, ~in_first_T)]
    rest = (unreachable(half_OI, a_rI=a_rI, b_Or=b_Or) for half_OI in halves)
    return Energy.of(*halves), Energy.of(*rest)


def reach(*, a_rI: Tensor, b_Or: Tensor) -> int:
    """Return the dimensions of ``dB A + B dA``, of the O * I that a weight has.

    It is r * (O + I - r) at full rank: of a gradient without any structure the same share of the
    energy is reachable.
    """
    num_inputs, num_outputs = a_rI.shape[1], b_Or.shape[0]
    left = num_inputs - rows_basis(a_rI).shape[1], num_outputs - rows_basis(b_Or.T).shape[1]
    return num_inputs * num_outputs - left[0] * left[1]


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Singular values of an update, from the largest, not all of them zero."""

    values_K: Tensor

    @classmethod
    def of(cls, *, a_rI: Tensor, b_Or: Tensor, scale: float) -> "Spectrum | None":
        """Return that of ``scale * B A`` from two matrices of (r, r); None: it is zero."""
        factors = torch.linalg.qr(b_Or.float()).R @ torch.linalg.qr(a_rI.float().T).R.T
        values = torch.linalg.svdvals(abs(scale) * factors)
        return cls(values_K=values) if values.sum() > 0 else None

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the values' shares, https://doi.org/10.5281/zenodo.40487.

        K equal values have the rank K.
        """
        shares = self.values_K / self.values_K.sum()
        return float(torch.special.entr(shares).sum().exp())

    @property
    def stable_rank(self) -> float:
        """Energy over the energy of the largest value."""
        return float(self.values_K.square().sum() / self.values_K[0].square())

    @property
    def top_share(self) -> float:
        """Share of the energy in the largest value."""
        return 1 / self.stable_rank
