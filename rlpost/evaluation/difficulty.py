"""How hard items are for a model: the share of an item's responses that are right.

Owns the share and its classes. Refuses to own which items are kept for training. Pure. Invariant: a
response without a reward is no wrong one, so an item without a reward has no difficulty.
"""

import math
from collections.abc import Iterable, Sequence

_BETWEEN = 5  # classes of items that are neither always nor never solved
CLASSES = (
    "never",
    *(f"{part / _BETWEEN:.0%}-{(part + 1) / _BETWEEN:.0%}" for part in range(_BETWEEN)),
    "always",
)


def pass_rate(rewards: Sequence[float | None]) -> float | None:
    """Return the mean of the known rewards; of rewards of 0 and 1, the share that is right."""
    known = [each for each in rewards if each is not None]
    return math.fsum(known) / len(known) if known else None


def difficulty_class(rate: float) -> str:
    """Return the class of an item; a rate of 0.2 belongs to 20%-40%, and 0 and 1 to their own."""
    if rate <= 0:
        return CLASSES[0]
    return CLASSES[-1] if rate >= 1 else CLASSES[1 + min(_BETWEEN - 1, int(rate * _BETWEEN + 1e-9))]


def histogram(rates: Iterable[float | None]) -> dict[str, int]:
    """Return how many items are in each class; those without a rate are in none."""
    counts = dict.fromkeys(CLASSES, 0)
    for rate in rates:
        if rate is not None:
            counts[difficulty_class(rate)] += 1
    return counts
