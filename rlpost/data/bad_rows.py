"""What happens to rows that cannot be used.

Owns the choices. Refuses to own which rows these are (dataset.py and corpus/).
"""

from enum import Enum


class OnBadRow(Enum):
    """What happens at a bad row: the run stops, or the row is skipped and listed."""

    error = "error"
    skip = "skip"


class OnLongPrompt(Enum):
    """What happens at a prompt that is too long: the run stops, or it is skipped and listed."""

    error = "error"
    skip = "skip"


class OnLong(Enum):
    """What happens to a row that is too long: an error, left out and listed, or its end cut off."""

    error = "error"
    skip = "skip"
    truncate = "truncate"
