"""What the evaluations of a run decide: which checkpoint is the best, and when it ends early.

Owns the metrics that options name. Refuses to own the decisions (control/best.py,
control/early_stopping.py) and saving (progress.py). Invariants: the weights before the first step
are no candidate, because they have no checkpoint; a metric that no evaluation measures ends the
run at the first one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from rlpost.bounds import option
from rlpost.checkpoint.store import CheckpointConfig
from rlpost.control.best import BestEvaluation
from rlpost.control.early_stopping import EarlyStopping, EarlyStoppingConfig
from rlpost.control.result_metrics import wants_low
from rlpost.errors import UserError

_TIMES = ("timing_s/", "perf/")  # measured by every evaluation, and no result of it


class ExportedModel(Enum):
    """Which weights a run exports."""

    last = "last"
    best = "best"


@dataclass(kw_only=True)
class ExportConfig:
    """What is written at the end."""

    which: ExportedModel = option(
        ExportedModel.last, help="weights of the last step, or of checkpoint.best_metric's best"
    )


class EvaluationSchedule(Protocol):
    """When held-out data is looked at."""

    every: int  # steps; 0: at the beginning and the end


class ResultOptions(Protocol):
    """The options of a stage that evaluations matter to."""

    early_stopping: EarlyStoppingConfig
    checkpoint: CheckpointConfig
    export: ExportConfig

    @property
    def evaluation(self) -> EvaluationSchedule:
        """When held-out data is looked at."""


def check_results(cfg: ResultOptions) -> None:
    """Refuse combinations of a stage's options that cannot work; every stage calls it.

    Raises:
        UserError: names the field, the rule and the way out.
    """
    if cfg.export.which is ExportedModel.best and cfg.checkpoint.best_metric is None:
        raise UserError(
            "export.which=best needs checkpoint.best_metric=NAME, which says what the best is; set "
            "it, or use export.which=last"
        )
    if cfg.early_stopping.metric is not None and cfg.evaluation.every == 0:
        raise UserError(
            "early_stopping.metric has no effect with evaluation.every=0, which evaluates only "
            "before and after; set evaluation.every to a number of steps"
        )


def require_measured(cfg: ResultOptions, measured: Collection[str]) -> None:
    """Refuse a metric that evaluations of this run do not measure.

    Args:
        cfg: names metrics.
        measured: names of what an evaluation measures; none: there is nothing to measure.

    Raises:
        UserError: names the option, the metric, and the metrics that there are.
    """
    for field, metric in named_metrics(cfg).items():
        if metric not in measured:
            known = sorted(name for name in measured if not name.startswith(_TIMES))
            raise UserError(
                f"{field}: no evaluation measures {metric!r}; "
                + (
                    f"evaluations measure: {', '.join(known)}"
                    if known
                    else "nothing is evaluated: set data.heldout=FILE"
                )
            )


def named_metrics(cfg: ResultOptions) -> dict[str, str]:
    """Return the metric that each option names."""
    named = {
        "checkpoint.best_metric": cfg.checkpoint.best_metric,
        "early_stopping.metric": cfg.early_stopping.metric,
    }
    return {field: metric for field, metric in named.items() if metric is not None}


class RunResults:
    """Reads the metrics of every evaluation of a run."""

    def __init__(self, cfg: ResultOptions) -> None:
        checkpoint, early_stopping = cfg.checkpoint, cfg.early_stopping
        self._cfg = cfg
        self.best: BestEvaluation | None = None
        self._stopping: EarlyStopping | None = None
        if (metric := checkpoint.best_metric) is not None:
            lowest = wants_low(metric, checkpoint.best_mode, field="checkpoint.best_mode")
            self.best = BestEvaluation(metric=metric, lowest=lowest)
        if early_stopping.metric is not None:
            self._stopping = EarlyStopping(early_stopping)
        self._seen = False  # an evaluation that measured everything

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in an evaluation of the weights of ``step``; empty: there is nothing to measure.

        Raises:
            UserError: the first evaluation lacks a metric that an option names.
        """
        if not self._seen:
            require_measured(self._cfg, metrics)
        self._seen = True
        if step == 0:
            return
        if self.best is not None:
            self.best.observe(step, metrics.get(self.best.metric))
        if self._stopping is not None:
            self._stopping.observe(step, metrics.get(self._stopping.metric))

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation so far."""
        return None if self.best is None else self.best.step

    @property
    def stop_reason(self) -> str | None:
        """Why the run ends before its last step; None: it goes on."""
        return None if self._stopping is None else self._stopping.reason

    def state_dict(self) -> dict[str, Any]:
        """Return what belongs to checkpoints."""
        return {
            "best": None if self.best is None else self.best.state_dict(),
            "stopping": None if self._stopping is None else self._stopping.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore it; what is of another metric starts anew."""
        state = state or {"best": None, "stopping": None}
        if self.best is not None:
            self.best.load_state_dict(state["best"])
        if self._stopping is not None:
            self._stopping.load_state_dict(state["stopping"])
