"""The coefficient of the KL penalty over a run: fixed, or steered towards a target.

Owns the coefficient and its update. Refuses to own how KL is measured (kl.py) and when.
Invariants: the coefficient stays positive; one update changes it by a bounded factor; the state is
one number, so a resumed run continues exactly. Plain floats, no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rlpost.bounds import number, option

ERROR_BOUND = 0.2  # of the relative error that one update sees


@dataclass(kw_only=True)
class AdaptiveKLConfig:
    """Proportional control of the coefficient, arXiv 1909.08593 (section 2.2)."""

    enabled: bool = option(
        False, help="change the coefficient so that the divergence stays near the target"
    )
    target: float = number(
        0.05,
        above=0,
        at_most=1000,
        hint="nats per token; 0.01 to 0.1 is usual",
        help="nats per response token, as reported; the paper's 6 is per response",
    )
    horizon: int = number(
        10_000,
        at_least=1,
        at_most=10**9,
        help="responses over which it adapts: the larger, the slower",
    )


class KLController:
    """Holds the coefficient; with ``enabled`` off it never changes.

    Example::

        controller = KLController(0.05, AdaptiveKLConfig(enabled=True))
        controller.update(measured_kl, num_samples=128)  # once per step
        controller.coefficient
    """

    def __init__(self, coefficient: float, config: AdaptiveKLConfig) -> None:
        self.coefficient = coefficient
        self._config = config

    def update(self, kl: float, *, num_samples: int) -> None:
        """coefficient *= 1 + clip(kl / target - 1, +-0.2) * num_samples / horizon.

        ``kl`` is the batch's mean over sampled tokens, in nats. More samples than the
        horizon count as the horizon. A batch without a measurement (NaN) changes nothing.
        """
        if not self._config.enabled or math.isnan(kl):
            return
        error = min(max(kl / self._config.target - 1, -ERROR_BOUND), ERROR_BOUND)
        self.coefficient *= 1 + error * min(1.0, num_samples / self._config.horizon)

    def state_dict(self) -> dict[str, float]:
        """Return what a checkpoint must hold."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from ``state``; a fixed coefficient stays as configured."""
        if self._config.enabled:
            self.coefficient = state["coefficient"]
