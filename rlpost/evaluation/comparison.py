"""Whether one model is better than another on the same items.

Owns the paired difference, its interval and its p-value. Refuses to own the means of one model
(intervals.py). Pure. Invariants: two responses are compared only if they answer the same item
under the same sample number; responses to one item stay together, in the bootstrap and in the
test; the same seed gives the same numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlpost.errors import UserError
from rlpost.evaluation.intervals import CONFIDENCE

RESAMPLES = 10_000
ROUNDING = 1e-9  # sums of the same numbers in another order differ by this much at most
MAX_LATTICE = 10**6  # of the exact test: beyond this sum of differences it samples
_BLOCK = 2**22  # random numbers that are held at once

ByItem = Mapping[str, Sequence[float | None]]  # item -> reward of each sample; None: not known


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The mean of ``after - before`` over pairs of responses to the same items."""

    difference: float
    low: float
    high: float
    p_value: float  # two-sided, of the hypothesis that both models are alike
    num_items: int
    num_pairs: int
    num_unknown: int  # pairs that are left out because one of the rewards is not known


def compare(
    before: ByItem,
    after: ByItem,
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> PairedDifference | None:
    """Compare two models; None where no pair is known.

    The interval is the percentile bootstrap over items: each resample draws as many items as there
    are, with all their pairs; see ``percentile_interval`` for items that are all alike. The
    p-value is that of flipping the sign of each item's difference (Fisher's permutation test). For
    rewards of 0 and 1 it counts every flip; with one sample an item it is McNemar's exact test.

    Args:
        before: rewards of the first model.
        after: those of the second, on the same items with as many samples.
        seed: of the bootstrap, and of the test where it samples.
        confidence: of the interval.
        resamples: of the bootstrap, and of the test where it samples.

    Raises:
        UserError: the items or the numbers of samples differ.
    """
    require_paired(before, after)
    sums, sizes, unknown = [], [], 0
    for item, rewards in before.items():
        pairs = zip(rewards, after[item], strict=True)
        gaps = [b - a for a, b in pairs if a is not None and b is not None]
        unknown += len(rewards) - len(gaps)
        if gaps:
            sums.append(math.fsum(gaps))
            sizes.append(len(gaps))
    if not sums:
        return None
    sums_I, sizes_I = np.array(sums), np.array(sizes)  # I items
    means_MB = resampled_means(sums_I[None], sizes_I, seed=seed, resamples=resamples)
    low, high = percentile_interval(
        means_MB[0],
        confidence=confidence,
        num_items=len(sums),
        ends=(-1.0, 1.0) if are_shares(before) and are_shares(after) else None,
    )
    return PairedDifference(
        difference=math.fsum(sums) / int(sizes_I.sum()),
        low=low,
        high=high,
        p_value=sign_flip_p_value(sums, seed=seed, resamples=resamples),
        num_items=len(sums),
        num_pairs=int(sizes_I.sum()),
        num_unknown=unknown,
    )


def sign_flip_p_value(
    differences: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> float:
    """Return the probability of a sum at least as far from 0 if each sign were a coin's.

    Whole numbers are counted exactly. Otherwise ``resamples`` flips are drawn and
    ``(1 + as far) / (1 + resamples)`` is returned, which is never 0 (Phipson and Smyth 2010).
    """
    whole = all(float(each).is_integer() for each in differences)
    total = sum(map(abs, differences))
    if whole and total <= MAX_LATTICE:
        return _exact_p_value([int(abs(each)) for each in differences], abs(sum(differences)))
    sizes_I = np.abs(np.asarray(differences, dtype=float))
    # Sums of the same numbers in another order differ in the last digits and are equally far.
    far = abs(math.fsum(differences)) - 1e-9 * total
    random, found = np.random.default_rng(seed), 0
    for count in _blocks(resamples, len(sizes_I)):
        signs_BI = random.integers(0, 2, size=(count, len(sizes_I))) * 2 - 1
        found += int((np.abs(signs_BI @ sizes_I) >= far).sum())
    return (1 + found) / (1 + resamples)


def _exact_p_value(sizes: Sequence[int], observed: float) -> float:
    reach = sum(sizes)
    probability_T = np.zeros(2 * reach + 1)  # of each sum T, from -reach on
    probability_T[reach] = 1.0
    for size in filter(None, sizes):
        up, down = np.roll(probability_T, size), np.roll(probability_T, -size)
        probability_T = (up + down) / 2  # nothing wraps around: no sum is beyond the reach
    far_T = np.abs(np.arange(-reach, reach + 1)) >= observed
    return min(1.0, float(probability_T[far_T].sum()))


def resampled_means(
    sums_MI: np.ndarray, sizes_I: np.ndarray, *, seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
    """Return the mean of each of M quantities in B resamples of the same I items.

    Args:
        sums_MI: of a quantity's values of an item; the quantities are paired, so each resample
            draws the same items for all of them.
        sizes_I: how many values an item has.
        seed: of the draws.
        resamples: B.
    """
    random, items = np.random.default_rng(seed), len(sizes_I)
    means = []
    for count in _blocks(resamples, items):
        drawn_BI = random.integers(0, items, size=(count, items))
        means.append(sums_MI[:, drawn_BI].sum(axis=2) / sizes_I[drawn_BI].sum(axis=1))
    return np.concatenate(means, axis=1)


def percentile_interval(
    values_B: np.ndarray,
    *,
    confidence: float,
    num_items: int,
    ends: tuple[float, float] | None,
) -> tuple[float, float]:
    """Return the two ends between which ``confidence`` of the resampled values lie.

    Resamples of items that are all alike have no spread, however few items there are. What those
    leave open is the share of items that differ, of which none was seen: up to Clopper's and
    Pearson's bound of an event that did not occur in ``num_items``, which lie at one of ``ends``.

    Args:
        values_B: one of each resample.
        confidence: of the interval.
        num_items: that were resampled.
        ends: the least and the largest possible value; None: not known, and no spread stays none.
    """
    tail = (1 - confidence) / 2
    low, high = map(float, np.quantile(values_B, [tail, 1 - tail]))
    if ends is not None and np.ptp(values_B) <= ROUNDING:
        unseen = 1 - tail ** (1 / num_items)
        low, high = ((1 - unseen) * low + unseen * ends[0], (1 - unseen) * high + unseen * ends[1])
    return low, high


def are_shares(values: ByItem) -> bool:
    """Whether every known value lies in [0, 1]."""
    return all(0 <= each <= 1 for item in values.values() for each in item if each is not None)


def _blocks(total: int, width: int) -> list[int]:
    """Split ``total`` rows of ``width`` numbers into blocks that fit into memory."""
    rows = max(1, _BLOCK // width)
    full, rest = divmod(total, rows)
    return [rows] * full + [rest] * (rest > 0)


def aligned(models: Mapping[str, ByItem], *, samples: int) -> dict[str, ByItem]:
    """Return the models with the same items each; those that one lacks are not known of it."""
    items = sorted({uid for values in models.values() for uid in values})
    return {
        model: {uid: values.get(uid, [None] * samples) for uid in items}
        for model, values in models.items()
    }


def require_paired(before: ByItem, after: ByItem) -> None:
    """Raises UserError: the items, or the numbers of samples of an item, differ."""
    if before.keys() != after.keys():
        lone = sorted(before.keys() ^ after.keys())
        raise UserError(
            f"both models must answer the same items, but {len(lone)} were answered by one alone:"
            f" {', '.join(lone[:4])}{' ...' if len(lone) > 4 else ''}; "
            "evaluate both on the same data"
        )
    for item, rewards in before.items():
        if len(rewards) != len(after[item]):
            raise UserError(
                f"both models must have as many samples of each item, got {len(rewards)} and "
                f"{len(after[item])} of {item}; evaluate both with the same samples=N"
            )
