"""How far a run is, kept so that it can go on from there.

Owns counters, checkpoints and the return to one. Refuses to own the checkpoint directory
(checkpoint/store.py) and what ranks write (training/). Invariants: what is checkpointed is
the state after a whole step, never the middle of one; driver and trained groups of one
checkpoint are of the same step; after a return everything is as it was at that step.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlpost.checkpoint.manifest import verify
from rlpost.checkpoint.space import CheckpointWriteError
from rlpost.checkpoint.state import read_json, write_json
from rlpost.control.failures import Budget
from rlpost.errors import DataError, GroupLost, RunFailed
from rlpost.stages.results import ExportedModel, RunResults
from rlpost.stages.run import Run, StageConfig
from rlpost.tracking.tracker import Phase

log = logging.getLogger(__name__)


class Progress:
    """Counters of a run, and the way back to its last checkpoint.

    Args:
        run: gives the trained groups and the kept state, all registered before.
        halt: ends what goes on behind the loop, before a return.
    """

    def __init__(self, run: Run, *, halt: Callable[[], Awaitable[None]]) -> None:
        self._run, self._halt = run, halt
        self.saved_step = self.evaluated_step = -1
        self._results = RunResults(run.cfg)
        self._restarts = Budget(
            run.cfg.failures.trainer_restarts,
            of="losses of the trainer",
            field="failures.trainer_restarts",
        )
        self._farthest = 0  # step that was reached before any return
        self._saved_here = False  # this process has committed a checkpoint
        self._saved_best: dict[str, Any] | None = None  # the best evaluation that has a checkpoint
        self._scratch: Path | None = None  # a checkpoint whose files are being written
        self._committing: asyncio.Task[None] | None = None
        self._origin = self._snapshot = self._taken()  # before step 1; after the last whole step

    @property
    def complete(self) -> bool:
        """Whether the last step is done, or evaluations say that going on is of no use."""
        last = self._run.step >= self._run.cfg.trainer.steps
        return last or self._results.stop_reason is not None

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, is due."""
        return self.complete or (every > 0 and self._run.step % every == 0)

    def evaluation_due(self) -> bool:
        """Whether the weights of this step are to be evaluated and were not yet."""
        if self.evaluated_step == self._run.step:
            return False
        return self._run.step == 0 or self.due(self._run.cfg.evaluation.every)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Take in what the weights of this step reached; empty: there is nothing to measure.

        Raises:
            UserError: an option names a metric that is not measured.
        """
        self._results.evaluated(self._run.step, metrics)
        if metrics:
            self.evaluated_step = self._run.step
        self._run.ending = self._results.stop_reason

    def save_due(self) -> bool:
        """Whether the state of this step is to be saved, or was and need not be again."""
        step = self._run.step
        is_best = self._results.best_step == step
        return step > 0 and (is_best or self.due(self._run.cfg.checkpoint.every))

    async def choose_exported(self) -> None:
        """Bring the weights that are to be exported back; they are the last ones, or the best.

        Raises:
            GroupLost: the trainer is gone.
            RunFailed: the best checkpoint is damaged.
        """
        run, best = self._run, self._results.best_step
        run.exported_step = run.step
        if run.cfg.export.which is not ExportedModel.best or best == run.step:
            return
        path = run.store.best()
        if path is None:
            run.warn(
                "export.which=best: there is no best checkpoint, so the last weights are exported"
            )
            return
        try:
            await asyncio.to_thread(verify, path, hashes=True)
        except DataError as error:
            raise RunFailed(
                f"export.which=best: {error}; run the same command again with export.which=last"
            ) from error
        for name, group in run.trained.items():
            await group.load(path / name)
        run.exported_step = best

    def finish_step(self) -> None:
        """A whole step is done: it is what the next checkpoint holds."""
        self._run.step += 1
        if self._run.step > self._farthest:  # doing again what was lost is no progress
            self._farthest = self._run.step
            self._restarts.progress()
        self._snapshot = self._taken()

    # -- saving -----------------------------------------------------------------------------

    def _taken(self) -> dict[str, Any]:
        """Take the driver's state of this moment."""
        kept = {name: each.state_dict() for name, each in self._run.kept.items()}
        return {"stage": self._run.stage, "step": self._run.step, **kept}

    async def save_steps(self) -> None:
        """Save the state after the last whole step, if there is one; wait until it is safe."""
        if self._run.step > 0:
            await self.begin_save()
        await self.saved()

    async def begin_save(self) -> None:
        """Copy the state after the last whole step; its files are written behind the run.

        A full disk costs a warning.
        """
        run = self._run
        if self.saved_step == run.step:
            return
        await self.saved()
        run.tracker.phase(Phase.checkpointing)
        writing = []
        try:
            scratch = self._scratch = await asyncio.to_thread(run.store.begin, run.step)
            for name, group in run.trained.items():
                (scratch / name).mkdir()
                await group.begin_save(scratch / name)
                writing.append(group)
            state = {name: v() if callable(v) else v for name, v in self._snapshot.items()}
            run.cost.note()
            state |= {
                "evaluated_step": self.evaluated_step,
                "results": self._results.state_dict(),
                "cost": run.cost.state_dict(),
            }
            write_json(scratch / "driver.json", state)
        except (OSError, CheckpointWriteError) as error:
            for group in writing:
                with suppress(CheckpointWriteError):  # one reason is enough
                    await group.finish_save()
            self._give_up(error, run.step)
        else:
            self.saved_step = run.step

    def end_save(self) -> None:
        """Let the checkpoint that was begun, if any, be committed behind the run.

        Called once the ranks have something else to do: until their files are written they
        would answer nothing.
        """
        if self._scratch is not None and self._committing is None:
            self._committing = asyncio.create_task(
                self._commit(self._scratch, self.saved_step, best=self._best_of(self.saved_step))
            )

    async def saved(self) -> None:
        """Return when no checkpoint is under way."""
        self.end_save()
        if self._committing is not None:
            await self._committing
        self._scratch = self._committing = None

    def _best_of(self, step: int) -> dict[str, Any] | None:
        """Return what is recorded of ``step`` if it is the best so far, else None."""
        best = self._results.best
        return best.state_dict() if best is not None and best.step == step else None

    async def _commit(self, scratch: Path, step: int, *, best: dict[str, Any] | None) -> None:
        run = self._run
        try:
            await self._files_written()
            await asyncio.to_thread(
                run.store.commit,
                scratch,
                step=step,
                config_hash=run.config_hash,
                is_best=best is not None,
            )
            self._saved_here = True
            self._saved_best = best or self._saved_best
        except CheckpointWriteError as error:
            self._give_up(error, step)

    async def _files_written(self) -> None:
        """Let every group end what it began, also when another one could not write."""
        groups = self._run.trained.values()
        results = await asyncio.gather(*(g.finish_save() for g in groups), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        for error in sorted(errors, key=lambda error: not isinstance(error, GroupLost)):
            raise error

    def _give_up(self, error: Exception, step: int) -> None:
        self._run.warn(f"step {step} was not saved, the run goes on: {error}")
        if self._results.best is not None and self._best_of(step):
            self._results.best.load_state_dict(self._saved_best)
        self.saved_step = -1
        if self._scratch is not None:
            self._run.store.abort(self._scratch)
            self._scratch = None

    # -- going back -------------------------------------------------------------------------

    async def resume(self) -> None:
        """Take up the state of the checkpoint that set-up chose, if any."""
        try:
            state = await self._restore(self._run.resume_from)
            self._run.cost.resume(state.get("cost"))
        except GroupLost as error:
            await self.go_back(error)
        self._farthest = self._run.step

    async def go_back(self, error: GroupLost) -> None:
        """Replace the lost trainer and continue from the last committed checkpoint.

        Generators stay up. Raises RunFailed when it happens too often.
        """
        run = self._run
        log.warning("the trainer is lost: %s", error)
        run.progress("loss of the trainer noticed")  # the time it hung is not the recovery's
        await self._halt()
        await self._abandon_save()
        while True:
            self._restarts.spend(str(error))
            try:
                await asyncio.gather(*(group.restart() for group in run.trained.values()))
                state = await self._restore(await self._checkpoint())
                break
            except GroupLost as again:
                error = again
        run.cost.go_back(state.get("cost"))
        run.tracker.rewind(run.step)
        run.progress(f"return to step {run.step}")
        log.warning("going on from step %d", run.step)

    async def _checkpoint(self) -> Path | None:
        """Where to go back to; before the first save that is where this process began."""
        saved = await asyncio.to_thread(self._run.store.latest) if self._saved_here else None
        return saved or self._run.resume_from

    async def _abandon_save(self) -> None:
        """Let a commit under way finish; forget a checkpoint whose writers are gone."""
        try:
            if self._committing is not None:
                await self._committing
            elif self._scratch is not None:
                self._run.store.abort(self._scratch)
        except GroupLost:
            assert self._scratch is not None
            self._run.store.abort(self._scratch)
        self._scratch = self._committing = None

    async def _restore(self, checkpoint: Path | None) -> dict[str, Any]:
        """Have everything be as it was; returns the driver's record of that moment."""
        run = self._run
        if checkpoint is None:
            state = {name: v() if callable(v) else v for name, v in self._origin.items()}
        else:
            state = read_json(checkpoint / "driver.json")
            for name, group in run.trained.items():
                await group.load(checkpoint / name)
        run.step = state["step"]
        self.saved_step = -1 if checkpoint is None else run.step
        self.evaluated_step = state.get("evaluated_step", -1)
        self._restore_results(state.get("results"))
        for name, kept in run.kept.items():
            kept.load_state_dict(state[name])
        self._snapshot = self._taken()
        return state

    def _restore_results(self, state: dict[str, Any] | None) -> None:
        """Take up what evaluations said; the pointer to the best checkpoint follows."""
        run, results = self._run, self._results
        results.load_state_dict(state)
        run.ending = results.stop_reason
        if results.best is not None and not run.store.mark_best(results.best_step):
            run.warn(
                f"the checkpoint of step {results.best_step}, the best by {results.best.metric}, "
                "is gone or damaged: the best is sought from here on"
            )
            results.best.forget()
        self._saved_best = None if results.best is None else results.best.state_dict()


def ended_early(checkpoint: Path, cfg: StageConfig) -> bool:
    """Whether the run that wrote ``checkpoint`` ends there by the early stopping of ``cfg``."""
    results = RunResults(cfg)
    results.load_state_dict(read_json(checkpoint / "driver.json").get("results"))
    return results.stop_reason is not None
