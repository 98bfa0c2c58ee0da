"""Judged responses to one prompt -> the pair that preference training learns from.

Owns the rule. Refuses to own the rewards and what is learned of a pair (the losses). Invariants:
the pair does not depend on the order of the responses; its rewards differ, and so do its tokens; a
response without a reward is in no pair. Pure.

The rule is best against worst, as RLHFlow's online DPO takes them (arXiv 2405.07863): the two
ends of a group are the comparison that its rewards are surest of. Among equal ends a hash
of the seed and the tokens decides, so that neither position nor length has a say.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ChosenPair:
    """Places of two responses in their group.

    Example: ``best_and_worst([0.0, 1.0], response_ids=[[5], [7]], seed=0)`` is
    ``ChosenPair(chosen=1, rejected=0)``.
    """

    chosen: int
    rejected: int


def best_and_worst(
    rewards: Sequence[float | None], *, response_ids: Sequence[Sequence[int]], seed: int
) -> ChosenPair | None:
    """Pair a response of the highest reward with one of the lowest.

    Args:
        rewards: of the responses; None: not judged.
        response_ids: their sampled tokens; one without any takes no part.
        seed: decides among responses of equal reward.

    Returns:
        None where the rewards do not differ, and so nothing is preferred.
    """
    judged = [
        (reward, _draw(seed, ids), place)
        for place, (reward, ids) in enumerate(zip(rewards, response_ids, strict=True))
        if reward is not None and len(ids)
    ]
    if not judged:
        return None
    highest, lowest = max(each[0] for each in judged), min(each[0] for each in judged)
    if not highest > lowest:
        return None
    chosen = min((draw, place) for reward, draw, place in judged if reward == highest)[1]
    other = [
        (draw, place)
        for reward, draw, place in judged
        # A judge may say two things of one response; there is nothing to learn from that.
        if reward == lowest and list(response_ids[place]) != list(response_ids[chosen])
    ]
    return ChosenPair(chosen=chosen, rejected=min(other)[1]) if other else None


def _draw(seed: int, ids: Sequence[int]) -> bytes:
    key = np.asarray([seed, *ids], dtype="<i8").tobytes()
    return hashlib.blake2b(key, digest_size=16).digest()
