"""What the arithmetic measures beside its result, and how it adds up over a batch.

Owns the carrier ``Diagnostics`` (per-token tensors, sorted by how they combine) and
``Tally`` (their sums over micro-batches and ranks). Refuses to own communication and
logging. Invariant: a metric is finalised once, from global sums, so it does not depend on
how tokens were split over micro-batches and ranks.

Legend: R sampled tokens of one micro-batch, K metrics.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

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
    explained_variances: dict[str, Tensor] = field(default_factory=dict)  # y, y^2, e, e^2, n
    totals: dict[str, Tensor] = field(default_factory=dict)  # scalar

    def add(self, diagnostics: Diagnostics, *, counted_R: Tensor) -> None:
        """Add one micro-batch; only what ``counted_R`` (bool) marks is looked at."""
        means, weights = diagnostics.means, diagnostics.effective_sizes
        pairs = diagnostics.explained_variances
        count = counted_R.sum().double()
        if summed := [*means.values(), *weights.values(), *chain.from_iterable(pairs.values())]:
            # All of them at once: on a GPU each metric alone would cost several small kernels.
            kept_KR = _masked(summed, counted_R, fill=0.0)
            mean_KR, weight_KR, pair_KR = kept_KR.split([len(means), len(weights), 2 * len(pairs)])
            error_KR = pair_KR[0::2] - pair_KR[1::2]
            self._add_sums(self.means, means, [mean_KR], count)
            self._add_sums(self.effective_sizes, weights, [weight_KR, weight_KR.square()], count)
            target_KR = pair_KR[0::2]
            moments = [target_KR, target_KR.square(), error_KR, error_KR.square()]
            self._add_sums(self.explained_variances, pairs, moments, count)
        if diagnostics.maxima and counted_R.numel():
            largest_K = _masked(list(diagnostics.maxima.values()), counted_R, fill=-torch.inf)
            for name, largest in zip(diagnostics.maxima, largest_K.amax(1), strict=True):
                _take_maximum(self.maxima, name, largest)

    @staticmethod
    def _add_sums(
        into: dict[str, Tensor], names: Iterable[str], rows: list[Tensor], count: Tensor
    ) -> None:
        """Add the sums of ``rows``, each (K, R), and the count, for each of K names."""
        sums_K = [row_KR.sum(1) for row_KR in rows]
        moments_K = torch.stack([*sums_K, count.expand_as(sums_K[0])], dim=1)
        for name, moments in zip(names, moments_K, strict=True):
            _accumulate(into, name, moments)

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


def _masked(values: Sequence[Tensor], counted_R: Tensor, *, fill: float) -> Tensor:
    """Stack detached values as (K, R) doubles, with ``fill`` where nothing counts."""
    # Not a product: a masked token may hold inf, and inf * 0 is nan.
    stacked_KR = torch.stack([values_R.detach().double() for values_R in values])
    return stacked_KR.masked_fill(~counted_R, fill)


def _explained_variance(moments: Tensor) -> float | None:
    """1 - Var(e) / Var(y), e = y - v; None where the target does not vary beyond rounding."""
    total, squares, error_total, error_squares, count = map(float, moments)
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


def half_for_ties(margin: Tensor) -> Tensor:
    """Return the accuracy of a comparison: 1 for a positive margin, 0 below 0, 0.5 for a tie."""
    return (margin.sign() + 1) / 2
