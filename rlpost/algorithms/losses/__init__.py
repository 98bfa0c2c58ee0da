"""Policy losses, per token; importing the package registers every loss.

A loss is its config and its function in one of these files. A new file is added to the import
from ``rlpost.algorithms.losses`` below, and `make docs` writes its line of docs/algorithms.md.
"""

from rlpost.algorithms.loss import Loss
from rlpost.algorithms.losses import sequence, weighted  # noqa: F401
from rlpost.algorithms.losses.base import PolicyLossInputs, losses, ratio_diagnostics
from rlpost.algorithms.losses.clipped import ClipConfig, clip
from rlpost.algorithms.losses.covariance import ClipCovConfig, KLCovConfig, token_selection
from rlpost.algorithms.losses.plain import ReinforceConfig, reinforce
from rlpost.algorithms.ratio import ratio

__all__ = ["ClipConfig", "ClipCovConfig", "KLCovConfig", "Loss", "PolicyLossInputs"]
__all__ += ["ReinforceConfig", "clip", "losses", "ratio", "ratio_diagnostics", "reinforce"]
__all__ += ["token_selection"]
