"""How every stage that learns from a data set begins to run, and how it draws rows.

Owns what is written and said of the data at the start, what a step tells of its rows, and the job
that drives such a stage. Refuses to own the batch that is made of rows and what is minimised.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from rlpost.data.example import Example
from rlpost.data.mixture import Mixture
from rlpost.data.splits import Splits
from rlpost.stages.fit import Fit
from rlpost.stages.learning.account import data_used, trained_tokens_by_source
from rlpost.stages.roles import First, Role
from rlpost.stages.run import Run
from rlpost.stages.sampling.suites import SuiteScores
from rlpost.tracking.files.examples import write_examples
from rlpost.training.packing.pack import Packed

log = logging.getLogger(__name__)


class LearningPlan(Protocol):
    """What the plans of these stages have in common."""

    @property
    def cfg(self) -> Any:
        """The stage's options, with the number of steps."""

    @property
    def roles(self) -> Sequence[Role]:
        """Who exists; the policy is the first."""

    @property
    def objective(self) -> Any:
        """What is minimised; its ``metrics`` is the stage's name."""

    @property
    def splits(self) -> Splits:
        """The rows to learn, and those that are held out."""

    @property
    def shown(self) -> Sequence[Mapping[str, Any]]:
        """Some training examples, as ``write_examples`` takes them."""


class DrawnRows:
    """The rows of a run, one step's after the other's."""

    def __init__(self, mixture: Mixture, *, per_step: int) -> None:
        self._mixture = mixture
        self._per_step = per_step
        self._by_source: dict[str, float] = {}

    def take(self) -> list[Example]:
        """Return the examples of the next step's rows, those of one row together."""
        drawn = self._mixture.take(self._per_step)
        self._by_source = trained_tokens_by_source(drawn)
        return drawn

    def metrics(self) -> dict[str, float]:
        """Return the epoch, and the trained tokens of the last step by source."""
        return {"training/epoch": self._mixture.epoch, **self._by_source}


async def begin(
    plan: LearningPlan,
    run: Run,
    *,
    supervised: Callable[[], Awaitable[None]] | None = None,
    first: First | None = None,
) -> tuple[list[Any], DrawnRows]:
    """Write the examples page's rows, say what was left out, and start every role.

    Args:
        plan: who exists, and the rows.
        run: what is started.
        supervised: boots the actors that a supervisor spawns, if there are any.
        first: see ``start_roles``.

    Returns:
        The group of each role, in their order, and the rows.

    Raises:
        UserError: not every actor fits into the cluster.
        InfrastructureError: an actor did not come up.
    """
    write_examples(run.directory.examples, plan.shown)
    skipped = plan.splits.skipped
    if skipped:
        log.warning("%d rows of the data were skipped", len(skipped))
    for reason in skipped:
        log.info("skipped: %s", reason)
    for caution in plan.splits.cautions:
        log.warning("%s", caution)
    groups = await run.start(plan.roles, supervised=supervised, first=first)
    mixture = run.keep("mixture", plan.splits.train)
    return groups, DrawnRows(mixture, per_step=plan.cfg.examples_per_step)


def fit_of(
    plan: LearningPlan,
    run: Run,
    rows: DrawnRows,
    *,
    policy: Any,
    batch: Callable[[], Awaitable[Packed]],
    heldout: Callable[[], Awaitable[dict[str, float]]],
    suites: SuiteScores | None = None,
) -> Fit:
    """Return the job of a stage that learns from a data set.

    Args:
        plan: what it learns.
        run: whose job it is.
        rows: what ``begin`` returned.
        policy: the group that is trained.
        batch: makes the optimizer batch of the next step.
        heldout: measures held-out rows, if there are any.
        suites: scores suites; None: there are none.
    """
    return Fit(
        run=run,
        policy=policy,
        objective=plan.objective,
        batch=batch,
        base=plan.cfg.model.path,
        stage=plan.objective.metrics,
        heldout=heldout if plan.splits.heldout else None,
        suites=suites,
        drawn=rows.metrics,
        data=data_used(plan.cfg.data, plan.splits),
    )
