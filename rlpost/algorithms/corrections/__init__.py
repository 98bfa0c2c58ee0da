"""Corrections for tokens the trained policy did not sample; importing registers every stage."""

from rlpost.algorithms.corrections import responses, tokens  # noqa: F401
from rlpost.algorithms.corrections.base import Correction, correct, corrections

__all__ = ["Correction", "correct", "corrections"]
