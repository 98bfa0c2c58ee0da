"""The best evaluation of a run.

Owns what is better. Refuses to own what is measured and which checkpoint is kept (the loop's
progress). Invariants: of equal evaluations the earliest is the best; a value that is no number is
never the best. Pure.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Any


@dataclass(kw_only=True)
class BestEvaluation:
    """The best value of ``metric`` so far and the step that reached it.

    Example::

        best = BestEvaluation(metric="sft/heldout_loss/chat", lowest=True)
        best.observe(5, 1.25)  # True
    """

    metric: str
    lowest: bool
    value: float | None = None
    step: int | None = None

    def observe(self, step: int, value: float | None, *, min_delta: float = 0.0) -> bool:
        """Take in the value of ``step`` (None: not measured); return whether it is the best.

        It must be better than the best by more than ``min_delta``.
        """
        if value is None or not isfinite(value):
            return False
        if self.value is not None:
            gain = self.value - value if self.lowest else value - self.value
            if gain <= min_delta:
                return False
        self.value, self.step = float(value), step
        return True

    def forget(self) -> None:
        """Start anew."""
        self.value = self.step = None

    def state_dict(self) -> dict[str, Any]:
        """Return what belongs to checkpoints."""
        return {"metric": self.metric, "value": self.value, "step": self.step}

    def load_state_dict(self, state: dict[str, Any] | None) -> bool:
        """Restore it; return False, and start anew, where it is of another metric."""
        self.forget()
        if state is None or state["metric"] != self.metric:
            return state is None
        self.value, self.step = state["value"], state["step"]
        return True
