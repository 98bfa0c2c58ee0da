"""The verdicts on one response -> its reward.

Owns the weighted sum. Invariant: a failed verdict makes the reward None, never smaller.
"""

from collections.abc import Mapping, Sequence

from rlpost.types import Verdict
from rlpost.verifiers.base import ABSTAINED


def combine(verdicts: Sequence[Verdict], weights: Mapping[str, float]) -> float | None:
    """Return the weighted sum of the rewards, or None when the response has no reward.

    Abstentions and verifiers of weight 0 are left out of the sum. Any other failure makes the
    whole reward None, and so does having nothing left to sum.

    Args:
        verdicts: at most one per verifier.
        weights: verifier name -> factor; has every name in ``verdicts``.
    """
    judged = [v for v in verdicts if v.error != ABSTAINED and weights[v.verifier] != 0]
    total = 0.0
    for verdict in judged:
        if verdict.reward is None:
            return None
        total += weights[verdict.verifier] * verdict.reward
    return total if judged else None
