"""Merge methods; importing this package registers all of them in ``merges``."""

from rlpost.merging.methods import dare, linear, passthrough, slerp, task_arithmetic, ties
from rlpost.merging.methods.base import merges

__all__ = ["dare", "linear", "merges", "passthrough", "slerp", "task_arithmetic", "ties"]
