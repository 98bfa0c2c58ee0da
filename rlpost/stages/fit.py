"""The Job of every stage that learns from a data set: one optimizer update a step.

Owns the order batch, update, report. Refuses to own the batch, the objective and when steps
happen (loop.py).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.loss import Objective
from rlpost.models.origin import DataUsed
from rlpost.stages.export import export_model
from rlpost.stages.run import Run
from rlpost.stages.sampling.suites import SuiteScores
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.tracker import Phase
from rlpost.training.packing.pack import Packed


class Learner(Protocol):
    """The trained group of such a stage."""

    async def forward_backward(self, packed: Packed, objective: Objective) -> dict[str, float]:
        """Accumulate the gradient of one optimizer batch; returns its metrics."""

    async def optim_step(self, step_id: int) -> dict[str, float]:
        """Apply it once."""

    async def export(self, directory: Any) -> None:
        """Write the model."""


class Measures(Protocol):
    """The trained group, as what measures held-out data asks it."""

    async def measure(self, packed: Packed, objective: Objective) -> Tally:
        """Return sums over everything that counts."""


@dataclass(kw_only=True)
class Fit:
    """``stages.loop.Job`` of supervised stages.

    Example::

        yield Fit(run=run, policy=policy, objective=objective, batch=lambda: packed(cursor.take(8)),
                  base=cfg.model.path, stage="sft")
    """

    run: Run
    policy: Learner
    objective: Objective  # what ``policy`` minimises
    batch: Callable[[], Awaitable[Packed]]  # the next optimizer batch, packed; moves the cursor
    base: str  # the model that the run started from, as the user called it
    stage: str
    data: Sequence[DataUsed] = ()  # for the model card
    heldout: Callable[[], Awaitable[Mapping[str, float]]] | None = None  # metrics of now
    suites: SuiteScores | None = None  # what generators answer; None: there are none
    drawn: Callable[[], Mapping[str, float]] = dict  # metrics of the data drawn so far

    async def begin(self, record: StepRecord) -> None:
        """Nothing waits for the first step."""

    async def step(self, record: StepRecord) -> None:
        """Take a batch and update the policy on it."""
        run, number = self.run, self.run.step + 1
        run.tracker.phase(Phase.training)
        with record.timed("wait_batch"):
            batch = await self.batch()
        record.add({**batch.sizes(), **self.drawn()})
        with record.timed("update_actor"):
            record.add(await self.policy.forward_backward(batch, self.objective))
            record.add(await self.policy.optim_step(number))
        run.progress(f"update {number}")

    async def evaluate(self, record: StepRecord) -> bool:
        """Measure held-out data, and suites where they are due, if there is any."""
        suites = self.suites if self.suites is not None and self.suites.due(self.run.step) else None
        if self.heldout is None and suites is None:
            return False
        self.run.tracker.phase(Phase.evaluating)
        with record.timed("testing"):
            if self.heldout is not None:
                record.add(await self.heldout())
            if suites is not None:
                await suites.measure(record)
        return True

    async def export(self) -> None:
        """Write the policy in Hugging Face layout."""
        self.run.tracker.phase(Phase.exporting, "the model")
        await export_model(self.run, self.policy, base=self.base, stage=self.stage, data=self.data)

    async def halt(self) -> None:
        """End what generators know of a trainer that may be lost; nothing else goes on."""
        if self.suites is not None:
            self.suites.forget_pushed()
