"""Likelihood of tokens that somebody wrote: fine-tuning and further pre-training.

A loss is its config and its function in losses.py; objective.py adds what every one of them shares.
"""

from rlpost.algorithms.supervised.losses import DFTConfig, LikelihoodConfig, losses
from rlpost.algorithms.supervised.objective import LikelihoodObjective, StartKLConfig

__all__ = ["DFTConfig", "LikelihoodConfig", "LikelihoodObjective", "StartKLConfig", "losses"]
