"""What k of n responses to one item are worth: pass@k, best@k and maj@k, exactly.

Owns the expectations over every choice of k of an item's n responses, all equally likely. Refuses
to own means over items and their uncertainty (intervals.py) and what is right (verifiers). Pure.
Invariant: counts are whole numbers and a result is rounded once, so nothing overflows or cancels,
however many responses there are.
"""

import operator
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from fractions import Fraction
from math import comb

from rlpost.errors import UserError


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the probability that k responses, drawn without replacement, hold a right one.

    This is the unbiased estimator of Chen et al. 2021 (arXiv:2107.03374), equation 1.

    Args:
        n: responses to the item.
        c: how many of them are right.
        k: how many are drawn.

    Raises:
        UserError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    n, c, k = map(operator.index, (n, c, k))
    _require_drawable(n, k)
    if not 0 <= c <= n:
        raise UserError(f"c must be in [0, {n}], the number of responses, got {c}")
    # The difference is taken of whole numbers: 1 - comb(n - c, k) / comb(n, k) would cancel.
    return (comb(n, k) - comb(n - c, k)) / comb(n, k)


def best_at_k(rewards: Sequence[float], k: int) -> float:
    """Return the expected highest reward of k responses; with rewards 0 and 1 it is pass@k.

    Raises:
        UserError: not 1 <= k <= the number of rewards.
    """
    n = len(rewards)
    _require_drawable(n, k)
    # The reward of rank r, from 0, is the highest of a draw that takes k - 1 from the r below it.
    ranked = enumerate(sorted(rewards))
    best = sum(comb(rank, k - 1) * Fraction(reward) for rank, reward in ranked)
    return float(best / comb(n, k))


def maj_at_k(answers: Sequence[Hashable | None], truth: Hashable, k: int) -> float:
    """Return the probability that the most frequent of k drawn answers is the right one.

    Every set of k of the n answers is equally likely, and all of them are counted, so no chance is
    left in the result. Where several answers are equally frequent, each of them wins with the same
    probability. A response without an answer, None, may be drawn but has no vote; where no drawn
    response has an answer, the vote is lost. This is self-consistency (Wang et al. 2022,
    arXiv:2203.11171).

    Args:
        answers: of one item; equal answers must compare equal, so normalise them before.
        truth: the right answer.
        k: how many are drawn.

    Raises:
        UserError: not 1 <= k <= the number of answers, or ``truth`` is None.
    """
    _require_drawable(len(answers), k)
    if truth is None:
        raise UserError("truth must be an answer, got None")
    counts = Counter(answers)
    silent, right = counts.pop(None, 0), counts.pop(truth, 0)
    won = Fraction(0)
    for votes in range(1, min(right, k) + 1):
        ways = _ways_to_lose(counts.values(), votes=votes, silent=silent, drawn=k - votes)
        shared = sum(Fraction(number, tied + 1) for tied, number in ways.items())
        won += comb(right, votes) * shared
    return float(won / comb(len(answers), k))


def _ways_to_lose(rivals: Iterable[int], *, votes: int, silent: int, drawn: int) -> Counter[int]:
    """Count the draws in which no rival has more than ``votes``, by how many rivals have as many.

    Args:
        rivals: how often each other answer was given.
        votes: of the right answer.
        silent: responses without an answer.
        drawn: how many responses are drawn beside the right ones.
    """
    ways = Counter({(0, 0): 1})  # (drawn so far, rivals with as many votes) -> number of draws
    for given in rivals:
        grown: Counter[tuple[int, int]] = Counter()
        for (taken, tied), number in ways.items():
            for more in range(min(given, votes, drawn - taken) + 1):
                grown[taken + more, tied + (more == votes)] += number * comb(given, more)
        ways = grown
    result: Counter[int] = Counter()
    for (taken, tied), number in ways.items():
        result[tied] += number * comb(silent, drawn - taken)
    return result


def _require_drawable(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise UserError(f"k must be in [1, {n}], the number of responses, got {k}")
