"""What a student learns from a teacher's distributions: divergences, and what a step minimises."""

from rlpost.algorithms.distill.divergence import ComparedTokens, DivergenceConfig, compare
from rlpost.algorithms.distill.objective import DistillObjective

__all__ = ["ComparedTokens", "DistillObjective", "DivergenceConfig", "compare"]
