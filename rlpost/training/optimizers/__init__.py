"""Optimizers: how gradients become updates, and what is kept between two of them.

Importing the room registers every kind; libraries are imported when one is made.
"""

from rlpost.training.optimizers import adafactor as adafactor
from rlpost.training.optimizers import adam_mini as adam_mini
from rlpost.training.optimizers import adamw as adamw
from rlpost.training.optimizers import adamw_8bit as adamw_8bit
from rlpost.training.optimizers import galore as galore
from rlpost.training.optimizers import muon as muon
from rlpost.training.optimizers.base import OptimizerConfig, optimizers

__all__ = ["OptimizerConfig", "optimizers"]
