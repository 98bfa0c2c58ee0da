"""Whether probabilities are believed as often as they are right, and what a score goes with.

Owns the arithmetic. Refuses to own what is judged and what is said of the result. numpy only.

Legend: N judgements, pairs or responses.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 5  # of confidences, from one half to 1

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How sure judgements are, and how often they are right.

    Example: ``Calibration(error=0.1, accuracy_of_bin={"50-60": 0.5, "90-100": 0.99})``
    """

    error: float  # expected calibration error, arXiv 1706.04599
    accuracy_of_bin: Mapping[str, float]  # by percent of confidence; bins without one are absent


def calibration(probability_N: Floats, is_true_N: npt.NDArray[np.bool_]) -> Calibration:
    """Compare probabilities that something holds with whether it does.

    A judgement holds what it finds more probable, with a confidence of at least one half; its bin
    is one of ``BINS`` of equal width. The error is the mean over all judgements of the distance
    between the mean confidence of their bin and the share of its judgements that are right.
    """
    confidence_N = np.maximum(probability_N, 1 - probability_N)
    right_N = np.where(probability_N == 0.5, 0.5, (probability_N > 0.5) == is_true_N)
    bin_N = np.minimum(((confidence_N - 0.5) * 2 * BINS).astype(int), BINS - 1)
    accuracies, error = {}, 0.0
    for number in np.unique(bin_N):
        mine_N = bin_N == number
        accuracy = float(right_N[mine_N].mean())
        width = 50 // BINS
        accuracies[f"{50 + number * width}-{50 + (number + 1) * width}"] = accuracy
        error += float(mine_N.mean()) * abs(float(confidence_N[mine_N].mean()) - accuracy)
    return Calibration(error=error, accuracy_of_bin=accuracies)


def correlation(first_N: Floats, second_N: Floats) -> float | None:
    """Return Pearson's correlation; None where one of the two does not vary."""
    if len(first_N) < 2 or np.ptp(first_N) == 0 or np.ptp(second_N) == 0:
        return None
    return float(np.corrcoef(first_N, second_N)[0, 1])


def probability(logit_N: Floats) -> Floats:
    """Return the logistic function without overflow."""
    small_N = np.exp(-np.abs(logit_N))
    result: Floats = np.where(logit_N >= 0, 1.0, small_N) / (1 + small_N)
    return result
