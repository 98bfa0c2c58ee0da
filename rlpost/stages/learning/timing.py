"""How long a step takes that learns rows of a data set.

Owns the tokens that a step draws on average. Refuses to own the arithmetic (roofline/) and the
devices (stages/step_time.py).
"""

from typing import Any, Protocol

from rlpost.data.mixture import Mixture
from rlpost.data.splits import Splits
from rlpost.errors import UserError
from rlpost.models.shape import model_shape
from rlpost.roofline.steps import StepTime
from rlpost.stages.step_time import PlannedOn, Work


class LearnsRows(Protocol):
    """The plan of a stage that learns from a data set."""

    @property
    def cfg(self) -> Any:
        """A ``LearnedDataConfig`` and ``LearningConfig``, with the number of steps."""

    @property
    def model_path(self) -> str:
        """The model that learns."""

    @property
    def splits(self) -> Splits:
        """The rows to learn, and those that are held out."""


def timing(plan: LearnsRows, on: PlannedOn, *, mean_response: float | None) -> StepTime:
    """Return the parts of a step without a reference model or a teacher; see ``rows_time``."""
    return rows_time(plan, on, drawn(plan, on), mean_response=mean_response)


def rows_time(
    plan: LearnsRows,
    on: PlannedOn,
    work: Work,
    *,
    mean_response: float | None,
    scoring_s: float = 0.0,
    first_s: float = 0.0,
) -> StepTime:
    """Return the parts of a step, and of the run.

    Args:
        plan: a checked run.
        on: where its actors would be.
        work: of a step.
        mean_response: refused, because nothing is sampled.
        scoring_s: of references and teachers in a step.
        first_s: of the run, before its first step.

    Raises:
        UserError: ``mean_response`` is given.
    """
    refuse_mean_response(mean_response)
    cfg = plan.cfg.trainer
    return StepTime(
        training_s=work.update_s(cfg),
        scoring_s=scoring_s,
        first_s=first_s,
        steps=cfg.steps,
    )


def refuse_mean_response(mean_response: float | None) -> None:
    """Raises UserError: a mean length of responses is given, and nothing is sampled."""
    if mean_response is not None:
        raise UserError("--mean-response has no effect: nothing is sampled; leave it out")


def drawn(
    plan: LearnsRows,
    on: PlannedOn,
    *,
    rows: int | None = None,
    sequences: int = 1,
    window: int | None = None,
) -> Work:
    """Return the work of a step, or of ``rows`` rows, before the plan's model.

    Args:
        plan: a checked run.
        on: where its actors would be.
        rows: None: those of a step.
        sequences: that one row has, such as 2 of a pair.
        window: tokens of a sequence, whatever the rows have; None: those of the rows.
    """
    cfg = plan.cfg
    tokens, length = row_tokens(plan.splits.train)
    return Work(
        shape=model_shape(plan.model_path),
        device=on.trainer(cfg.trainer),
        k=on.efficiency,
        tokens=tokens * (cfg.examples_per_step if rows is None else rows),
        length=length / sequences if window is None else window,
    )


def row_tokens(mixture: Mixture) -> tuple[float, float]:
    """Return tokens of a row on average, and the length that a token's row has on average.

    The second is larger where lengths differ: it is what attention costs.
    """
    total, tokens, squares = 0.0, 0.0, 0.0
    for name, weight in mixture.weights.items():
        lengths_N = mixture.corpora[name].lengths_N.astype(float)
        total += float(weight)
        tokens += float(weight) * float(lengths_N.mean())
        squares += float(weight) * float((lengths_N**2).mean())
    return tokens / total, squares / tokens
