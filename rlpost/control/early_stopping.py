"""When a run ends because it gets no better.

Owns the rule. Refuses to own what is measured and the end of the run (the loop). Invariant: the
decision is a function of the evaluations since the start and of the options of this moment, so
that a larger patience lets a run that had ended go on. Pure.
"""

from dataclasses import dataclass
from typing import Any

from rlpost.bounds import number, option
from rlpost.control.best import BestEvaluation
from rlpost.control.result_metrics import BestMode, wants_low
from rlpost.errors import UserError


@dataclass(kw_only=True)
class EarlyStoppingConfig:
    """End the run when evaluations get no better; without a metric it goes on to the last step."""

    metric: str | None = option(None, help="metric of evaluations that must improve; null: never")
    mode: BestMode | None = option(
        None, help="which end of the metric is good: max or min; null: as its name tells"
    )
    patience: int = number(
        3, at_least=1, at_most=10**6, help="evaluations in a row without an improvement that end it"
    )
    min_delta: float = number(
        0.0, at_least=0, at_most=1e9, help="an improvement is a change by more than this"
    )

    def check(self, path: str) -> None:
        """Raises UserError: options without a metric, or a metric without a direction."""
        if self.metric is None and self != EarlyStoppingConfig():
            raise UserError(
                f"{path}.* has no effect without {path}.metric; set {path}.metric=NAME, for "
                "example the held-out result of the stage"
            )
        if self.metric is not None:
            wants_low(self.metric, self.mode, field=f"{path}.mode")


class EarlyStopping:
    """Counts evaluations without an improvement.

    Example::

        stopping = EarlyStopping(EarlyStoppingConfig(metric="sft/heldout_loss/chat", patience=2))
        stopping.observe(5, 1.25)
        stopping.reason  # None: go on
    """

    def __init__(self, cfg: EarlyStoppingConfig) -> None:
        assert cfg.metric is not None
        self._cfg = cfg
        lowest = wants_low(cfg.metric, cfg.mode, field="early_stopping.mode")
        self._best = BestEvaluation(metric=cfg.metric, lowest=lowest)
        self._waited = 0  # evaluations since the best one

    def observe(self, step: int, value: float | None) -> None:
        """Take in the evaluation of ``step``; None, or NaN, is no improvement."""
        improved = self._best.observe(step, value, min_delta=self._cfg.min_delta)
        self._waited = 0 if improved else self._waited + 1

    @property
    def metric(self) -> str:
        """What must improve."""
        return self._best.metric

    @property
    def reason(self) -> str | None:
        """Why the run ends, as a sentence; None: it goes on."""
        if self._waited < self._cfg.patience:
            return None
        best = self._best
        reached = (
            f"than {best.value:.6g} of step {best.step}" if best.value is not None else "at all"
        )
        return (
            f"stopped early: {best.metric} was not better {reached} in {self._waited} evaluations "
            f"(early_stopping.patience={self._cfg.patience})"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what belongs to checkpoints."""
        return {"best": self._best.state_dict(), "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore it; start anew where it is of another metric."""
        known = self._best.load_state_dict(state and state["best"])
        self._waited = state["waited"] if state is not None and known else 0
