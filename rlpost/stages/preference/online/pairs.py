"""Judged groups -> pairs of examples, as a stage that learns from pairs of a data set has them.

Owns which groups have a pair and what of an episode is learned. Refuses to own the rule
(algorithms/preference/pairing.py) and the batch (preference/batch.py). Invariant: only tokens that
the policy sampled are trained.
"""

from collections.abc import Iterable

import numpy as np

from rlpost.algorithms.preference.pairing import ChosenPair, best_and_worst
from rlpost.data.example import Example
from rlpost.types import Episode, Group, Prompt


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
                _example(group.prompt, group.episodes[place])
                for place in (pair.chosen, pair.rejected)
            ]
    return found


def _example(prompt: Prompt, episode: Episode) -> Example:
    (trajectory,) = episode.trajectories  # one request, one sequence
    start, end = len(trajectory.prompt_ids), trajectory.spans[-1].end
    trained = np.zeros(start + end, dtype=bool)
    for span in trajectory.spans:
        trained[start + span.start : start + span.end] = True
    ids = [*trajectory.prompt_ids, *trajectory.response_ids[:end]]
    address = f"{prompt.address or prompt.uid}, sample {episode.sample}"
    return Example(ids=np.asarray(ids, np.int32), trained=trained, address=address, uid=prompt.uid)
