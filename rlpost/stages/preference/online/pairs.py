"""Judged groups -> pairs of examples, as a stage that learns from pairs of a data set has them.

Owns which groups have a pair. Refuses to own the rule (algorithms/preference/pairing.py), what of
an episode is learned (sampling/examples.py) and the batch (preference/batch.py).
"""

from collections.abc import Iterable

from rlpost.algorithms.preference.pairing import ChosenPair, best_and_worst
from rlpost.data.example import Example
from rlpost.stages.sampling.examples import sampled_example
from rlpost.types import Group


def pair_of(group: Group, *, seed: int) -> ChosenPair | None:
    """Return the places of a group's pair; None: its responses earned the same."""
    return best_and_worst(
        group.rewards, response_ids=[each.response_ids for each in group.episodes], seed=seed
    )


def paired_examples(groups: Iterable[Group], *, seed: int) -> list[Example]:
    """Return the chosen and the rejected response of every group that has a pair, in turn."""
    found = []
    for group in groups:
        pair = pair_of(group, seed=seed)
        if pair is not None:
            found += [
                sampled_example(group.prompt, group.episodes[place])
                for place in (pair.chosen, pair.rejected)
            ]
    return found
