"""Opens the trackers of a run as the user's options say.

Owns which trackers there are and their order. Refuses to own the trackers. Invariant: after a
resume from step k no metric and no sample on disk is of a later step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rlpost.bounds import check_config
from rlpost.tracking.config import TrackingConfig, WandbMode
from rlpost.tracking.console import Console, RunTerminal
from rlpost.tracking.files.jsonl import MetricsWriter, read_metrics
from rlpost.tracking.files.rollouts import RolloutWriter
from rlpost.tracking.files.timeline import TimelineWriter
from rlpost.tracking.learning_watch import LearningWatch
from rlpost.tracking.report.report import ReportTracker
from rlpost.tracking.tensorboard_tracker import TensorBoardTracker, need_tensorboard
from rlpost.tracking.tracker import RunStatus, Tracker, Trackers
from rlpost.tracking.wandb.mode import resolve_mode
from rlpost.tracking.wandb.tracker import WandbTracker


def check_trackers(cfg: TrackingConfig) -> WandbMode:
    """Refuse options that cannot work; return the mode that W&B will have.

    Raises:
        UserError: an option is out of range, W&B online has no key, or TensorBoard is not
            installed.
    """
    check_config(cfg, "tracking")
    if cfg.tensorboard:
        need_tensorboard()
    return resolve_mode(cfg.wandb)


def open_trackers(
    run_dir: Path,
    *,
    cfg: TrackingConfig,
    run_name: str,
    num_steps: int,
    config: Mapping[str, Any],
    resume_step: int | None = None,
    terminal: TextIO | None = None,
) -> Trackers:
    """Open all trackers of the run in ``run_dir``.

    ``config`` is plain data for W&B. Records of an earlier process after ``resume_step`` (None:
    all its records) are dropped, as by ``Trackers.rewind``. The console writes to ``terminal``
    (None: ``sys.stdout`` of the moment).

    Raises:
        UserError: see ``check_trackers``.
        DataError: metrics.jsonl is damaged; the message has its line.
        OSError: the run directory cannot be written.

    Example::

        trackers = open_trackers(run_dir, cfg=cfg.tracking, run_name="quickstart",
                                 num_steps=14, config=plain, resume_step=None)
    """
    mode = check_trackers(cfg)
    sinks: list[Tracker] = [
        MetricsWriter(run_dir / "metrics.jsonl"),
        RolloutWriter(run_dir / "rollouts"),
    ]
    if mode is not WandbMode.disabled:
        sinks.append(WandbTracker(run_dir, cfg=cfg, mode=mode, run_name=run_name, config=config))
    if cfg.tensorboard:
        sinks.append(TensorBoardTracker(run_dir))
    if cfg.report:
        sinks.append(ReportTracker(run_dir))
    watch = LearningWatch(run_dir / "metrics.jsonl", num_steps=num_steps)
    console = Console(
        run_name=run_name,
        num_steps=num_steps,
        mode=cfg.console,
        terminal=RunTerminal(file=terminal),
    )
    trace = run_dir / "trace.json"
    if resume_step is None:
        trace.unlink(missing_ok=True)  # it is of another run, and a rewind would keep it
    trackers = Trackers(sinks, console=console, timeline=TimelineWriter(trace), last=[watch])
    try:
        trackers.rewind(-1 if resume_step is None else resume_step)
        console.recall(read_metrics(run_dir / "metrics.jsonl"))
    except BaseException:
        trackers.close(RunStatus.failed)  # restores the terminal
        raise
    return trackers
