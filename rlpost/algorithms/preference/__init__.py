"""Preference losses, per pair or per judged response; importing the package registers every loss.

A loss is its config and its function in one of these files. A new file is added to the import
below, and `make docs` writes its line of docs/algorithms.md.
"""

from rlpost.algorithms.preference import dpo, kto, reference_free  # noqa: F401
from rlpost.algorithms.preference.inputs import (
    JudgedInputs,
    PairInputs,
    PreferenceLossConfig,
    preference_losses,
)
from rlpost.algorithms.preference.objective import PreferenceObjective

__all__ = ["JudgedInputs", "PairInputs", "PreferenceLossConfig", "PreferenceObjective"]
__all__ += ["preference_losses"]
