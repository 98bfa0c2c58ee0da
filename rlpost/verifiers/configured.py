"""Which verifiers a run has: the one place that reads ``cfg.verifier``.

Owns the names of a run's rewards and how they count without reward models. Invariant: every
reward has a name of its own, under which its verdicts, metrics and weight are found.
"""

from collections.abc import Mapping

from rlpost.errors import UserError
from rlpost.verifiers.base import VerifierConfig


def configured(verifier: VerifierConfig, *, field: str = "verifier") -> dict[str, VerifierConfig]:
    """Return a config per reward, in the order of the configuration.

    Args:
        verifier: the run's setting.
        field: where it stands, for messages.

    Raises:
        UserError: a setting does not fit.
    """
    try:
        return dict(verifier.expanded())
    except UserError as error:
        raise UserError(f"{field}.{error}") from None


def counted_weights(configs: Mapping[str, VerifierConfig]) -> dict[str, float]:
    """Return the factors of a sum that measures responses by the verifiers alone.

    Several rewards count as they are trained on. A single one counts as it is, whatever its
    weight, and so does each of several that only measure (all weights 0).
    """
    weights = {name: cfg.weight for name, cfg in configs.items()}
    if len(weights) == 1 or not any(weights.values()):
        return dict.fromkeys(weights, 1.0)
    return weights
