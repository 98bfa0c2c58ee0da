"""What generators answer to the probe, against what the trainer says of the same tokens.

Owns the comparison and what a person reads of one that fails. Refuses to own the bound
(``BusConfig.bound``) and what follows (bus.py). Pure.
"""

from collections.abc import Mapping, Sequence

from rlpost.errors import WeightPushError
from rlpost.weights.phase import Refused
from rlpost.weights.protocol import BusConfig

Logprobs = Sequence[Sequence[float]]  # of every token of a sequence after the first, in nats


def worst_difference(
    answers: Mapping[str, Logprobs], truth: Logprobs, *, cfg: BusConfig
) -> tuple[float, float]:
    """Return the largest mean and the largest single difference of all generators, in nats.

    Args:
        answers: name -> what a generator computes.
        truth: what the trainer computes.
        cfg: has the bound, and of which of the two it is.

    Raises:
        Refused: names the generators beyond the bound.
    """
    worst_mean = worst_max = 0.0
    failures: dict[str, Exception] = {}
    for name, answer in answers.items():
        mean, largest = logprob_difference(answer, truth)
        if not (largest if cfg.exact else mean) <= cfg.bound:
            failures[name] = WeightPushError(
                f"the probe of {name} differs from the trainer's log-probs by {mean:.2g} on "
                f"average, {largest:.2g} at most (bound {cfg.bound:.2g}): the version "
                "was not loaded faithfully"
            )
        worst_mean, worst_max = max(worst_mean, mean), max(worst_max, largest)
    if failures:
        raise Refused(failures)
    return worst_mean, worst_max


def logprob_difference(ours: Logprobs, theirs: Logprobs) -> tuple[float, float]:
    """Return the mean and the largest absolute difference in nats; NaN counts as infinite."""
    gaps = [
        abs(a - b)
        for mine, other in zip(ours, theirs, strict=True)
        for a, b in zip(mine, other, strict=True)
    ]
    gaps = [gap if gap == gap else float("inf") for gap in gaps]
    return sum(gaps) / len(gaps), max(gaps)
