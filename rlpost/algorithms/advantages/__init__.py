"""Rewards -> advantages; importing the package registers every estimator.

A new estimator is a config dataclass and a function in group.py or token.py, and a reference
in tests/algorithms/advantages/test_references.py. Each module's ``__all__`` is what is public.
"""

from rlpost.algorithms.advantages.base import *  # noqa: F403
from rlpost.algorithms.advantages.group import *  # noqa: F403
from rlpost.algorithms.advantages.token import *  # noqa: F403
