"""What the arithmetic measures beside its result, and how it adds up over a batch.

Owns the carrier ``Diagnostics`` (per-token tensors, sorted by how they combine) and
``Tally`` (their sums over micro-batches and ranks). Refuses to own communication and
logging. Invariant: a metric is finalised once, from global sums, so it does not depend on
how tokens were split over micro-batches and ranks.

Legend: R sampled tokens of one micro-batch, K metrics.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Key = tuple[str, tuple[str, ...]]  # a kind, and the names of metrics that came together

_MAXIMA, _TOTALS = "maxima", "totals"  # kinds beside those that are sums of moments


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """Detached measurements, one per token or per unit, under their public metric names.

    ``means`` are averaged over tokens, ``maxima`` take the largest token, and
    ``effective_sizes`` hold importance weights w whose normalised effective sample size
    ``mean(w)^2 / mean(w^2)`` is reported (1 when all weights are equal).
    ``explained_variances`` hold (target y, prediction v): ``1 - Var(y - v) / Var(y)``.
    ``part_means`` hold (value, flag): the mean where the flag is true. ``differences`` hold the
    same: the mean where it is true less the mean where it is false. ``correlations`` hold (x, y):
    Pearson's.

    Example: ``Diagnostics(means={"actor/ppo_kl": kl_R})``
    """

    means: Mapping[str, Tensor] = field(default_factory=dict)
    maxima: Mapping[str, Tensor] = field(default_factory=dict)
    effective_sizes: Mapping[str, Tensor] = field(default_factory=dict)
    explained_variances: Mapping[str, Pair] = field(default_factory=dict)
    part_means: Mapping[str, Pair] = field(default_factory=dict)
    differences: Mapping[str, Pair] = field(default_factory=dict)
    correlations: Mapping[str, Pair] = field(default_factory=dict)

    def __or__(self, other: "Diagnostics") -> "Diagnostics":
        """Return both; of a name that both have, the other's."""
        return Diagnostics(
            maxima={**self.maxima, **other.maxima},
            **{name: {**getattr(self, name), **getattr(other, name)} for name in _SUMMED},
        )


@dataclass(kw_only=True)
class Tally:
    """Sums of diagnostics over micro-batches; plain tensors, so it can cross processes.

    ``parts`` holds the metrics of a kind that came together, in one tensor with an entry for each:
    of a summed kind its moments and the count, (K, M); of maxima and totals one number, (K,). One
    operation adds a micro-batch to all of them; on a GPU each metric alone would cost several.

    Example::

        tally = Tally()
        tally.add(loss.diagnostics_R, counted_R=batch.counted_R)
        tally.add_total("actor/loss", loss.total(batch))
        ...
        metrics = merge(tally_of_each_rank).metrics()
    """

    parts: dict[Key, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, diagnostics: Diagnostics, *, counted_R: Tensor) -> None:
        """Add one micro-batch; only what ``counted_R`` (bool) marks is looked at."""
        measured = {kind: getattr(diagnostics, kind) for kind in _SUMMED}
        columns = [
            column
            for of_kind in measured.values()
            for value in of_kind.values()
            for column in (value if isinstance(value, tuple) else (value,))
        ]
        if columns:
            count = counted_R.sum().double()
            kept_KR = _masked(columns, counted_R, fill=0.0)
            for kind, of_kind in measured.items():
                num = _SUMMED[kind].num_columns * len(of_kind)
                mine_KR, kept_KR = kept_KR[:num], kept_KR[num:]
                if of_kind:
                    _combine(self.parts, (kind, tuple(of_kind)), _rows(kind, mine_KR, count))
        if diagnostics.maxima and counted_R.numel():
            largest_K = _masked(list(diagnostics.maxima.values()), counted_R, fill=-torch.inf)
            _combine(self.parts, (_MAXIMA, tuple(diagnostics.maxima)), largest_K.amax(1))

    def add_total(self, name: str, value: Tensor) -> None:
        """Add to a metric that is already weighted, such as ``Loss.total``."""
        _combine(self.parts, (_TOTALS, (name,)), value.detach().double()[None])

    def cpu(self) -> "Tally":
        """Copy to host memory, for sending to another process."""
        return Tally(parts={key: value.cpu() for key, value in self.parts.items()})

    def metrics(self) -> dict[str, float]:
        """Finalise; a metric for which no token was counted is left out, never 0."""
        result = {name: float(value) for name, value in self._of(_TOTALS).items()}
        for name, value in self._of(_MAXIMA).items():
            if value > -torch.inf:
                result[name] = float(value)
        for kind, summed in _SUMMED.items():
            for name, row in self._of(kind).items():
                *moments, count = row.tolist()
                final = summed.final(*moments, count) if count else None
                if final is not None:
                    result[name] = final
        return result

    def _of(self, kind: str) -> dict[str, Tensor]:
        """Return the entries of a kind by name; a metric may have come among different others."""
        found: dict[Key, Tensor] = {}
        for (each, names), values in self.parts.items():
            if each == kind:
                for name, value in zip(names, values, strict=True):
                    _combine(found, (kind, (name,)), value)
        return {name: value for (_, (name,)), value in found.items()}


def merge(tallies: Iterable[Tally]) -> Tally:
    """Combine the host tallies of several ranks into a new one."""
    merged = Tally()
    for tally in tallies:
        for key, value in tally.parts.items():
            _combine(merged.parts, key, value)
    return merged


@dataclass(frozen=True, kw_only=True)
class _Summed:
    """A kind of metric that is made of sums over a batch.

    ``moments`` turns the columns of all metrics of the kind, each (K, R), into what is summed;
    ``final`` makes the metric of the sums and the count, or None where they say nothing.
    """

    num_columns: int
    moments: Callable[..., Sequence[Tensor]]
    final: Callable[..., float | None]


def _effective_size(total: float, squares: float, count: float) -> float | None:
    return total**2 / (count * squares) if squares > 0 else None


def _explained_variance(
    total: float, squares: float, error_total: float, error_squares: float, count: float
) -> float | None:
    """1 - Var(e) / Var(y), e = y - v; None where the target does not vary beyond rounding."""
    variance = _variance(total, squares, count)
    error_variance = max(0.0, error_squares / count - (error_total / count) ** 2)
    return None if variance is None else 1 - error_variance / variance


def _part_mean(total: float, num: float, count: float) -> float | None:
    return total / num if num else None


def _difference(total: float, num: float, rest: float, count: float) -> float | None:
    return total / num - rest / (count - num) if 0 < num < count else None


def _correlation(x: float, y: float, xx: float, yy: float, xy: float, count: float) -> float | None:
    """Pearson's; None where one of the two does not vary beyond rounding."""
    x_variance, y_variance = _variance(x, xx, count), _variance(y, yy, count)
    if x_variance is None or y_variance is None:
        return None
    covariance = xy / count - x / count * y / count
    return covariance / math.sqrt(x_variance * y_variance)


def _variance(total: float, squares: float, count: float) -> float | None:
    variance = squares / count - (total / count) ** 2
    return variance if variance > 1e-12 * squares / count else None


_SUMMED: dict[str, _Summed] = {
    "means": _Summed(num_columns=1, moments=lambda x: [x], final=lambda x, count: x / count),
    "effective_sizes": _Summed(
        num_columns=1, moments=lambda w: [w, w.square()], final=_effective_size
    ),
    "explained_variances": _Summed(
        num_columns=2,
        moments=lambda y, v: [y, y.square(), y - v, (y - v).square()],
        final=_explained_variance,
    ),
    "part_means": _Summed(
        num_columns=2, moments=lambda x, flag: [x * flag, flag], final=_part_mean
    ),
    "differences": _Summed(
        num_columns=2,
        moments=lambda x, flag: [x * flag, flag, x * (1 - flag)],
        final=_difference,
    ),
    "correlations": _Summed(
        num_columns=2,
        moments=lambda x, y: [x, y, x.square(), y.square(), x * y],
        final=_correlation,
    ),
}


def _masked(values: Sequence[Tensor], counted_R: Tensor, *, fill: float) -> Tensor:
    """Stack values as (K, R) doubles, with ``fill`` where nothing counts."""
    # Not a product: a masked token may hold inf, and inf * 0 is nan.
    return torch.stack([*values]).double().masked_fill(~counted_R, fill)


def _rows(kind: str, columns_KR: Tensor, count: Tensor) -> Tensor:
    """Return the moments and the count, (K, M); a metric's columns follow one another."""
    summed = _SUMMED[kind]
    by_place = [columns_KR[place :: summed.num_columns] for place in range(summed.num_columns)]
    sums_K = [moment_KR.sum(1) for moment_KR in summed.moments(*by_place)]
    return torch.stack([*sums_K, count.expand_as(sums_K[0])], dim=1)


def _combine(into: dict[Key, Tensor], key: Key, value: Tensor) -> None:
    join = torch.maximum if key[0] == _MAXIMA else torch.add
    into[key] = join(into[key], value) if key in into else value


def half_for_ties(margin: Tensor) -> Tensor:
    """Return the accuracy of a comparison: 1 for a positive margin, 0 below 0, 0.5 for a tie."""
    return (margin.sign() + 1) / 2
