"""What the arithmetic measures beside its result, and how it adds up over a batch.

Owns the carrier ``Diagnostics`` (per-token tensors, sorted by how they combine) and
``Tally`` (their sums over micro-batches and ranks). Refuses to own communication and
logging. Invariant: a metric is finalised once, from global sums, so it does not depend on
how tokens were split over micro-batches and ranks.

Legend: R response tokens of one micro-batch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """Detached measurements, one per token or per unit, under their public metric names.

    ``means`` are averaged over tokens, ``maxima`` take the largest token, and
    ``effective_sizes`` hold importance weights w whose normalised effective sample size
    ``mean(w)^2 / mean(w^2)`` is reported (1 when all weights are equal).
    ``explained_variances`` hold (target y, prediction v): ``1 - Var(y - v) / Var(y)``.

    Example: ``Diagnostics(means={"actor/ppo_kl": kl_R})``
    """

    means: Mapping[str, Tensor] = field(default_factory=dict)
    maxima: Mapping[str, Tensor] = field(default_factory=dict)
    effective_sizes: Mapping[str, Tensor] = field(default_factory=dict)
    explained_variances: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __or__(self, other: "Diagnostics") -> "Diagnostics":
        """Return both; of a name that both have, the other's."""
        return Diagnostics(
            means={**self.means, **other.means},
            maxima={**self.maxima, **other.maxima},
            effective_sizes={**self.effective_sizes, **other.effective_sizes},
            explained_variances={**self.explained_variances, **other.explained_variances},
        )


@dataclass(kw_only=True)
class Tally:
    """Sums of diagnostics over micro-batches; plain tensors, so it can cross processes.

    Example::

        tally = Tally()
        tally.add(loss.diagnostics_R, counted_R=batch.counted_R)
        tally.add_total("actor/loss", loss.total(batch))
        ...
        metrics = merge(tally_of_each_rank).metrics()
    """

    means: dict[str, Tensor] = field(default_factory=dict)  # [sum, count]
    maxima: dict[str, Tensor] = field(default_factory=dict)  # scalar
    effective_sizes: dict[str, Tensor] = field(default_factory=dict)  # [sum, sum of squares, n]
    explained_variances: dict[str, Tensor] = field(default_factory=dict)  # _variance_moments
    totals: dict[str, Tensor] = field(default_factory=dict)  # scalar

    def add(self, diagnostics: Diagnostics, *, counted_R: Tensor) -> None:
        """Add one micro-batch; only what ``counted_R`` (bool) marks is looked at."""
        count = counted_R.sum().double()
        for name, values_R in diagnostics.means.items():
            total = _masked(values_R, counted_R, fill=0.0).sum()
            _accumulate(self.means, name, torch.stack([total, count]))
        for name, weights_R in diagnostics.effective_sizes.items():
            kept_R = _masked(weights_R, counted_R, fill=0.0)
            moments = torch.stack([kept_R.sum(), kept_R.square().sum(), count])
            _accumulate(self.effective_sizes, name, moments)
        for name, (targets_R, predictions_R) in diagnostics.explained_variances.items():
            moments = _variance_moments(targets_R, predictions_R, counted_R)
            _accumulate(self.explained_variances, name, moments)
        for name, values_R in diagnostics.maxima.items():
            if values_R.numel():
                largest = _masked(values_R, counted_R, fill=-torch.inf).amax()
                _take_maximum(self.maxima, name, largest)

    def add_total(self, name: str, value: Tensor) -> None:
        """Add to a metric that is already weighted, such as ``Loss.total``."""
        _accumulate(self.totals, name, value.detach().double())

    def cpu(self) -> "Tally":
        """Copy to host memory, for sending to another process."""
        return Tally(
            means={k: v.cpu() for k, v in self.means.items()},
            maxima={k: v.cpu() for k, v in self.maxima.items()},
            effective_sizes={k: v.cpu() for k, v in self.effective_sizes.items()},
            explained_variances={k: v.cpu() for k, v in self.explained_variances.items()},
            totals={k: v.cpu() for k, v in self.totals.items()},
        )

    def metrics(self) -> dict[str, float]:
        """Finalise; a metric for which no token was counted is left out, never 0."""
        result = {name: float(value) for name, value in self.totals.items()}
        for name, (total, count) in self.means.items():
            if count > 0:
                result[name] = float(total / count)
        for name, value in self.maxima.items():
            if value > -torch.inf:
                result[name] = float(value)
        for name, (total, squares, count) in self.effective_sizes.items():
            if squares > 0:
                result[name] = float(total.square() / (count * squares))
        for name, moments in self.explained_variances.items():
            explained = _explained_variance(moments)
            if explained is not None:
                result[name] = explained
        return result


def merge(tallies: Iterable[Tally]) -> Tally:
    """Combine the host tallies of several ranks into a new one."""
    merged = Tally()
    for tally in tallies:
        for mine, theirs in (
            (merged.means, tally.means),
            (merged.effective_sizes, tally.effective_sizes),
            (merged.explained_variances, tally.explained_variances),
            (merged.totals, tally.totals),
        ):
            for name, value in theirs.items():
                _accumulate(mine, name, value)
        for name, value in tally.maxima.items():
            _take_maximum(merged.maxima, name, value)
    return merged


def _masked(values_R: Tensor, counted_R: Tensor, *, fill: float) -> Tensor:
    # Not a product: a masked token may hold inf, and inf * 0 is nan.
    values_R = values_R.detach().double()
    return torch.where(counted_R, values_R, torch.full_like(values_R, fill))


def _variance_moments(targets_R: Tensor, predictions_R: Tensor, counted_R: Tensor) -> Tensor:
    """Return [n, sum y, sum y^2, sum e, sum e^2] with e = y - v, over the counted tokens."""
    kept_R = _masked(targets_R, counted_R, fill=0.0)
    errors_R = kept_R - _masked(predictions_R, counted_R, fill=0.0)
    sums = [kept_R, kept_R.square(), errors_R, errors_R.square()]
    return torch.stack([counted_R.sum().double(), *(values_R.sum() for values_R in sums)])


def _explained_variance(moments: Tensor) -> float | None:
    """1 - Var(e) / Var(y); None where the target does not vary beyond rounding."""
    count, total, squares, error_total, error_squares = map(float, moments)
    if count == 0:
        return None
    variance = squares / count - (total / count) ** 2
    if variance <= 1e-12 * squares / count:
        return None
    error_variance = max(0.0, error_squares / count - (error_total / count) ** 2)
    return 1 - error_variance / variance


def _accumulate(into: dict[str, Tensor], name: str, value: Tensor) -> None:
    into[name] = into[name] + value if name in into else value


def _take_maximum(into: dict[str, Tensor], name: str, value: Tensor) -> None:
    into[name] = torch.maximum(into[name], value) if name in into else value
