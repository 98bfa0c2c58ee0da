"""A run of the real loop, with real checkpoints and trackers, whose model is one number.

As a program it runs the whole of ``main`` and kills itself before the step that it is told.
"""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from rlpost.checkpoint.store import CheckpointConfig, CheckpointStore
from rlpost.control.early_stopping import EarlyStoppingConfig
from rlpost.control.failures import FailureConfig
from rlpost.stages.export import export_model
from rlpost.stages.loop import run_loop
from rlpost.stages.results import ExportConfig
from rlpost.stages.resume_point import find_resume_point
from rlpost.stages.run import Run
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode
from rlpost.tracking.open import open_trackers

LOSS = "toy/heldout_loss"
TOKENS = 100.0  # trained in a step
QUIET = TrackingConfig(wandb=WandbMode.disabled, console=ConsoleMode.quiet, report=False)


@dataclass(kw_only=True)
class ToyConfig:
    """The options that the loop reads."""

    seed: int = 0
    trainer: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(steps=8))
    evaluation: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(every=1))
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    checkpoint: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(every=3))
    export: ExportConfig = field(default_factory=ExportConfig)
    failures: FailureConfig = field(default_factory=FailureConfig)


class ToyGroup:
    """A model whose weights are the number of updates that it had."""

    def __init__(self):
        self.updates = 0
        self.refuses: set[int] = set()  # steps that the disk does not take

    async def restart(self):
        self.updates = 0

    async def begin_save(self, directory):
        if self.updates in self.refuses:
            raise OSError(28, "No space left on device")
        (directory / "updates").write_text(str(self.updates))

    async def finish_save(self):
        pass

    async def load(self, directory):
        self.updates = int((directory / "updates").read_text())

    async def export(self, directory):
        (directory / "updates").write_text(str(self.updates))

    async def close(self):
        pass


@dataclass(kw_only=True)
class ToyJob:
    """One update a step; the held-out loss of each step is given."""

    run: Run
    group: ToyGroup
    losses: list[float | None] | None  # of steps 0, 1, ...; None: nothing is held out
    kill_before: int | None = None
    stop_after: int | None = None  # the step after which somebody asks it to stop

    async def begin(self, record):
        pass

    async def step(self, record):
        if self.run.step + 1 == self.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        self.group.updates += 1
        record.add({"toy/updates": float(self.group.updates), "perf/trained_tokens": TOKENS})

    async def evaluate(self, record):
        if self.run.step == self.stop_after:
            self.run.stop.set()
        if self.losses is None:
            return False
        with record.timed("testing"):
            loss = self.losses[self.group.updates]
        record.add({LOSS: loss} if loss is not None else {"toy/other": 1.0})
        return True

    async def export(self):
        await export_model(self.run, self.group, base="org/base", stage="toy")

    async def halt(self):
        pass


def run_toy(root, cfg, losses, *, kill_before=None, stop_after=None, group=None):
    """Run, or resume, in ``root``; returns the run after its end."""
    directory = RunDirectory(root=Path(root))
    store = CheckpointStore(directory.checkpoints, keep=cfg.checkpoint.keep)
    resolved = {"seed": cfg.seed}
    resume_from = find_resume_point(directory, store, resume="auto", resolved=resolved, defaults={})
    directory.write_config(resolved)
    step = None if resume_from is None else int(resume_from.name.removeprefix("step_"))
    tracker = open_trackers(
        directory.root,
        cfg=QUIET,
        run_name="toy",
        num_steps=cfg.trainer.steps,
        config=resolved,
        resume_step=step,
    )
    run = Run(
        cfg=cfg,
        stage="toy",
        directory=directory,
        store=store,
        config_hash="toy",
        resume_from=resume_from,
        tracker=tracker,
    )
    group = run.trained["model"] = group or ToyGroup()
    job = ToyJob(
        run=run, group=group, losses=losses, kill_before=kill_before, stop_after=stop_after
    )
    status = asyncio.run(run_loop(job, run))
    tracker.close(status)
    return run


def main(root, kill_before):
    """Six evaluations with the best at step 3; early stopping after two without improvement."""
    cfg = ToyConfig(
        early_stopping=EarlyStoppingConfig(metric=LOSS, patience=3),
        checkpoint=CheckpointConfig(every=2, best_metric=LOSS),
    )
    cfg.export.which = type(cfg.export.which).best
    run_toy(root, cfg, [5.0, 4.0, 3.0, 1.0, 2.0, 2.0, 2.0, 0.0, 0.0], kill_before=kill_before)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) or None)
