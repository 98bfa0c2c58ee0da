"""How far a mean over items can be trusted.

Owns the interval of one mean. Refuses to own comparisons (comparison.py) and names of metrics
(scores.py). Pure. Invariants: responses to one item are never taken for independent ones; a value
that is not known is no value, so it moves the ends of the interval and never the mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from rlpost.errors import UserError

CONFIDENCE = 0.95

Clusters = Sequence[Sequence[float | None]]  # per item its values; None: not known


@dataclass(frozen=True, kw_only=True)
class MeanEstimate:
    """A mean and its interval.

    Example: ``MeanEstimate(mean=0.5, low=0.4, high=0.6, num_items=96, num_values=96,
    num_unknown=0)``
    """

    mean: float  # of the known values
    low: float | None  # None: nothing can be said
    high: float | None
    num_items: int  # with at least one known value
    num_values: int  # that are known
    num_unknown: int


def wilson(mean: float, n: float, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927), within [0, 1].

    Args:
        mean: the proportion.
        n: independent trials, or as many as the trials are worth.
        confidence: probability with which such an interval holds the true proportion.

    Raises:
        UserError: a proportion outside [0, 1], or no trials.
    """
    if not (0 <= mean <= 1 and n > 0):
        raise UserError(f"a proportion in [0, 1] of n > 0 trials was expected, got {mean} of {n}")
    z2 = _z(confidence) ** 2
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At 0 and 1 the end is the proportion itself, which rounding would miss.
    low = 0.0 if mean == 0 else max(0.0, centre - half)
    high = 1.0 if mean == 1 else min(1.0, centre + half)
    return low, high


def standard_error(clusters: Sequence[Sequence[float]]) -> float:
    """Return the standard error of the mean of all values, clustered by item.

    Miller 2024 (arXiv:2411.00640), section 2.2: the deviations of an item are added up before
    they are squared, so that responses that agree with each other count for less.
    """
    values = [value for cluster in clusters for value in cluster]
    mean = math.fsum(values) / len(values)
    sums = [math.fsum(value - mean for value in cluster) for cluster in clusters]
    return math.sqrt(math.fsum(each * each for each in sums)) / len(values)


def estimate_mean(clusters: Clusters, *, confidence: float = CONFIDENCE) -> MeanEstimate | None:
    """Return the mean over all known values with its interval; None where no value is known.

    Where all known values lie in [0, 1] the interval is Wilson's, with as many trials as the values
    are worth: ``mean * (1 - mean) / standard_error ** 2``, which is the number of items where each
    has one value that is 0 or 1. It stays within [0, 1] and has a width at 0 and 1. An unknown
    value lies in [0, 1] too: the lower end is that of all unknown values being 0, the upper end
    that of all being 1.

    For other values the interval is the mean and the normal quantile times the standard error,
    and there is none where a value is unknown or all values belong to one item.

    Args:
        clusters: per item its values. The interval is about other items of the same kind, each
            with as many responses.
        confidence: of the interval.
    """
    known = _known(clusters)
    if not known:
        return None
    values = [value for cluster in known for value in cluster]
    unknown = sum(value is None for cluster in clusters for value in cluster)
    if all(0 <= value <= 1 for value in values):
        low, _ = _bounded(_filled(clusters, 0.0), confidence)
        _, high = _bounded(_filled(clusters, 1.0), confidence)
        ends: tuple[float | None, float | None] = low, high
    else:
        ends = (None, None) if unknown else _unbounded(known, confidence)
    return MeanEstimate(
        mean=sum(values) / len(values),
        low=ends[0],
        high=ends[1],
        num_items=len(known),
        num_values=len(values),
        num_unknown=unknown,
    )


def _bounded(clusters: Sequence[Sequence[float]], confidence: float) -> tuple[float, float]:
    values = [value for cluster in clusters for value in cluster]
    mean = min(1.0, math.fsum(values) / len(values))
    # As many as the items of equal size that would weigh the same (Kish 1965), which is what the
    # values are worth if those of an item are always equal.
    items = len(values) ** 2 / math.fsum(len(cluster) ** 2 for cluster in clusters)
    spread, error = mean * (1 - mean), standard_error(clusters)
    if spread == 0 or len(clusters) == 1:
        worth = items
    elif error == 0:
        worth = float(len(values))
    else:
        worth = max(items, spread / error**2)
    return wilson(mean, worth, confidence=confidence)


def _unbounded(
    clusters: Sequence[Sequence[float]], confidence: float
) -> tuple[float | None, float | None]:
    items = len(clusters)
    if items == 1:
        return None, None
    values = [value for cluster in clusters for value in cluster]
    mean = math.fsum(values) / len(values)
    half = _z(confidence) * standard_error(clusters) * math.sqrt(items / (items - 1))
    return mean - half, mean + half


def _known(clusters: Clusters) -> list[list[float]]:
    kept = ([value for value in cluster if value is not None] for cluster in clusters)
    return [cluster for cluster in kept if cluster]


def _filled(clusters: Clusters, value: float) -> list[list[float]]:
    return [[value if v is None else v for v in cluster] for cluster in clusters if cluster]


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise UserError(f"confidence must be in (0, 1), got {confidence}; 0.95 is usual")
    return NormalDist().inv_cdf((1 + confidence) / 2)
