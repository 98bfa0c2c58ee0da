"""How far a run is, kept so that it can go on from there.

Owns counters, checkpoints and the return to one. Refuses to own the checkpoint directory
(checkpoint/store.py) and what ranks write (training/). Invariants: what is checkpointed is
the state after a whole step, never the middle of one; driver, trainer and critic of one
checkpoint are of the same step; after a return everything is as it was at that step.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlpost.checkpoint.space import CheckpointWriteError
from rlpost.checkpoint.state import read_json, write_json
from rlpost.control.failures import Budget
from rlpost.control.learning import Learning, StepOutcome
from rlpost.errors import GroupLost
from rlpost.stages.rl.parts import RLParts
from rlpost.stages.rl.ready_groups import from_records, to_records
from rlpost.tracking.tracker import Phase

log = logging.getLogger(__name__)


@dataclass
class RunState:
    """Counters of a run, and the way back to its last checkpoint."""

    parts: RLParts
    step: int = 0  # completed steps
    saved_step: int = -1
    evaluated_step: int = -1
    learning: Learning = field(init=False)
    _farthest: int = 0  # step that was reached before any return
    _saved_here: bool = False  # this process has committed a checkpoint
    _snapshot: dict[str, Any] = field(default_factory=dict)  # driver state after `step`
    _origin: dict[str, Any] = field(default_factory=dict)  # driver state before step 1
    _scratch: Path | None = None  # a checkpoint whose files are being written
    _committing: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        failures = self.parts.cfg.failures
        self.learning = Learning(failures)
        self._restarts = Budget(
            failures.trainer_restarts, of="losses of the trainer", field="failures.trainer_restarts"
        )
        self.take_snapshot()
        self._origin = self._snapshot

    @property
    def complete(self) -> bool:
        return self.step >= self.parts.cfg.trainer.steps

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, is due."""
        return self.complete or (every > 0 and self.step % every == 0)

    def evaluation_due(self) -> bool:
        """Whether the weights of this step are to be evaluated and were not yet."""
        if self.evaluated_step == self.step:
            return False
        return self.step == 0 or self.due(self.parts.cfg.evaluation.every)

    def finish_step(self, outcome: StepOutcome) -> None:
        """A whole step is done: it is what the next checkpoint holds."""
        self.learning.note(outcome)
        if self.step > self._farthest:  # doing again what was lost is no progress
            self._farthest = self.step
            self._restarts.progress()
        self.take_snapshot()

    # -- saving -----------------------------------------------------------------------------

    def take_snapshot(self) -> None:
        """Keep the driver's state of this moment: the end of a step."""
        parts = self.parts
        self._snapshot = {
            "step": self.step,
            "version": parts.bus.last_version,
            "cursor": parts.cursor.state_dict(),
            "ledger": parts.ledger.state_dict(),
            "staleness": parts.staleness.state_dict(),
            "ready": parts.producer.ready(),
            "kl_controller": parts.kl_controller.state_dict(),
            "learning": self.learning.state_dict(),
            "rewards": None if parts.rewards is None else parts.rewards.state_dict(),
        }

    async def save(self) -> None:
        """Save the state after the last whole step and wait until it is safe."""
        await self.begin_save()
        await self.saved()

    async def begin_save(self) -> None:
        """Copy the state after the last whole step; its files are written behind the run.

        A full disk costs a warning.
        """
        parts = self.parts
        if self.saved_step == self.step:
            return
        await self.saved()
        parts.tracker.phase(Phase.checkpointing)
        writing = []
        try:
            scratch = self._scratch = await asyncio.to_thread(parts.store.begin, self.step)
            for name, group in parts.trained_groups.items():
                (scratch / name).mkdir()
                await group.begin_save(scratch / name)
                writing.append(group)
            ready = {"ready": to_records(self._snapshot["ready"])}
            state = {k: v for k, v in self._snapshot.items() if k != "ready"}
            write_json(scratch / "driver.json", {**state, "evaluated_step": self.evaluated_step})
            write_json(scratch / "ready.json", ready)
        except (OSError, CheckpointWriteError) as error:
            for group in writing:
                with suppress(CheckpointWriteError):  # one reason is enough
                    await group.finish_save()
            self._give_up(error, self.step)
        else:
            self.saved_step = self.step

    def end_save(self) -> None:
        """Let the checkpoint that was begun, if any, be committed behind the run.

        Called once the ranks have something else to do: until their files are written they
        would answer nothing.
        """
        if self._scratch is not None and self._committing is None:
            self._committing = asyncio.create_task(self._commit(self._scratch, self.saved_step))

    async def saved(self) -> None:
        """Return when no checkpoint is under way."""
        self.end_save()
        if self._committing is not None:
            await self._committing
        self._scratch = self._committing = None

    async def _commit(self, scratch: Path, step: int) -> None:
        parts = self.parts
        try:
            await self._files_written()
            await asyncio.to_thread(
                parts.store.commit, scratch, step=step, config_hash=parts.config_hash
            )
            self._saved_here = True
        except CheckpointWriteError as error:
            self._give_up(error, step)

    async def _files_written(self) -> None:
        """Let every group end what it began, also when another one could not write."""
        groups = self.parts.trained_groups.values()
        results = await asyncio.gather(*(g.finish_save() for g in groups), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        for error in sorted(errors, key=lambda error: not isinstance(error, GroupLost)):
            raise error

    def _give_up(self, error: Exception, step: int) -> None:
        self.parts.warn(f"step {step} was not saved, the run goes on: {error}")
        self.saved_step = -1
        if self._scratch is not None:
            self.parts.store.abort(self._scratch)
            self._scratch = None

    # -- going back -------------------------------------------------------------------------

    async def resume(self) -> None:
        """Take up the state of the checkpoint that set-up chose, if any."""
        try:
            await self._restore(self.parts.resume_from)
        except GroupLost as error:
            await self.go_back(error)
        self._farthest = self.step

    async def go_back(self, error: GroupLost) -> None:
        """Replace the lost trainer and continue from the last committed checkpoint.

        Generators stay up. Raises RunFailed when it happens too often.
        """
        parts = self.parts
        log.warning("the trainer is lost: %s", error)
        parts.progress("loss of the trainer noticed")  # the time it hung is not the recovery's
        await parts.producer.stop()
        await self._abandon_save()
        parts.bus.forget_served()
        while True:
            self._restarts.spend(str(error))
            try:
                await asyncio.gather(*(group.restart() for group in parts.trained_groups.values()))
                await self._restore(await self._checkpoint())
                break
            except GroupLost as again:
                error = again
        parts.tracker.rewind(self.step)
        parts.progress(f"return to step {self.step}")
        log.warning("going on from step %d", self.step)

    async def _checkpoint(self) -> Path | None:
        """Where to go back to; before the first save that is where this process began."""
        saved = await asyncio.to_thread(self.parts.store.latest) if self._saved_here else None
        return saved or self.parts.resume_from

    async def _abandon_save(self) -> None:
        """Let a commit under way finish; forget a checkpoint whose writers are gone."""
        try:
            if self._committing is not None:
                await self._committing
            elif self._scratch is not None:
                self.parts.store.abort(self._scratch)
        except GroupLost:
            assert self._scratch is not None
            self.parts.store.abort(self._scratch)
        self._scratch = self._committing = None

    async def _restore(self, checkpoint: Path | None) -> None:
        parts = self.parts
        if checkpoint is None:
            state, ready = {"evaluated_step": -1, **self._origin}, []
        else:
            state = read_json(checkpoint / "driver.json")
            records = read_json(checkpoint / "ready.json")["ready"]
            ready = from_records(records, find=parts.find_prompt)
            for name, group in parts.trained_groups.items():
                await group.load(checkpoint / name)
        self.step = state["step"]
        self.saved_step = -1 if checkpoint is None else self.step
        self.evaluated_step = state["evaluated_step"]
        parts.cursor.load_state_dict(state["cursor"])
        parts.ledger.load_state_dict(state["ledger"])
        parts.kl_controller.load_state_dict(state["kl_controller"])
        self.learning.load_state_dict(state["learning"])
        if parts.rewards is not None:
            parts.rewards.load_state_dict(state["rewards"])
        # Numbers that generators of this process have seen are spent, whatever was saved.
        parts.bus.last_version = max(parts.bus.last_version, state["version"])
        parts.producer.restore(ready, staleness=state["staleness"], version=state["version"])
        self.take_snapshot()
