"""Sampled responses as examples, as a stage that learns from a data set has them.

Owns what of an episode is learned. Invariant: only tokens that the policy sampled are trained.
"""

import numpy as np

from rlpost.data.example import Example
from rlpost.types import Episode, Prompt


def sampled_example(prompt: Prompt, episode: Episode) -> Example:
    """Return the example of a response that was sampled in one request."""
    (trajectory,) = episode.trajectories  # one request, one sequence
    start, end = len(trajectory.prompt_ids), trajectory.spans[-1].end
    trained = np.zeros(start + end, dtype=bool)
    for span in trajectory.spans:
        trained[start + span.start : start + span.end] = True
    ids = [*trajectory.prompt_ids, *trajectory.response_ids[:end]]
    address = f"{prompt.address or prompt.uid}, sample {episode.sample}"
    return Example(ids=np.asarray(ids, np.int32), trained=trained, address=address, uid=prompt.uid)
