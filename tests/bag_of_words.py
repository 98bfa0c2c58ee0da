"""Logistic regression of labels on how long a text is and which words it has: the way out that a
reward model must not need.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class BagOfWords:
    """Scores texts, fitted to texts of two labels by Newton's method with an L2 penalty of 1."""

    def __init__(self, texts: Sequence[str], labels: Sequence[bool]) -> None:
        self.words = sorted({word for text in texts for word in _words(text)})
        x, y = self._features(texts), np.array(labels, dtype=float)
        self.weights = np.zeros(x.shape[1])
        penalty = np.eye(x.shape[1])
        for _ in range(50):
            p = 1 / (1 + np.exp(-x @ self.weights))
            slope = x.T @ (p - y) + penalty @ self.weights
            step = np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + penalty, slope)
            self.weights -= step
            if abs(step).max() < 1e-9:
                return
        raise AssertionError("the regression did not converge")

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return self._features(texts) @ self.weights

    def _features(self, texts: Sequence[str]) -> NDArray[np.float64]:
        counts = [[_words(text).count(word) for word in self.words] for text in texts]
        lengths = [[len(_words(text)), len(text), 1.0] for text in texts]
        scaled = np.array(lengths) / [10, 50, 1]
        return np.hstack([np.array(counts, dtype=float), scaled])


def share_in_order(better: NDArray[np.float64], worse: NDArray[np.float64]) -> float:
    """Return the share of pairs with the better one above; a tie is half right."""
    return float(((better > worse) + 0.5 * np.isclose(better, worse)).mean())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
