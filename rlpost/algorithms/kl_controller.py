"""The coefficient of the KL penalty over a run: fixed, or steered towards a target.

Owns the coefficient and its update. Refuses to own how KL is measured (kl.py) and when.
Invariants: the coefficient stays positive; one update changes it by a bounded factor; the
state is one number, so a resumed run goes on exactly. Plain floats, no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rlpost.errors import UserError

ERROR_BOUND = 0.2  # of the relative error that one update sees


@dataclass(kw_only=True)
class AdaptiveKLConfig:
    """Proportional control of the coefficient, arXiv 1909.08593 (section 2.2)."""

    enabled: bool = False
    target: float = 0.05  # nats per response token, as reported; the paper's 6 is per response
    horizon: int = 10_000  # responses: the larger, the slower

    def check(
        self, path: str = "algorithm.kl.adaptive", *, samples_per_step: int | None = None
    ) -> None:
        """Refuse what cannot work; ``samples_per_step`` is responses per step where known.

        Raises:
            UserError: a field is out of range.
        """
        if not 0 < self.target < math.inf:
            raise UserError(
                f"{path}.target must be positive, got {self.target}: nats per token; 0.01 to "
                "0.1 is usual"
            )
        if self.horizon < 1:
            raise UserError(f"{path}.horizon must be at least 1, got {self.horizon}")
        if self.enabled and samples_per_step is not None and self.horizon < samples_per_step:
            raise UserError(
                f"{path}.horizon must be at least the {samples_per_step} responses of one "
                f"step, got {self.horizon}: the coefficient would overshoot; the paper uses "
                "10000"
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

        ``kl`` is the batch's mean over response tokens, in nats. More samples than the
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
        """Go on from ``state``; a fixed coefficient stays as configured."""
        if self._config.enabled:
            self.coefficient = state["coefficient"]
