"""The trackers of a run, from its configuration.

Owns which sinks there are and their order. Invariant: on resumption, records after the
checkpoint's step are removed before any new one is written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpost.tracking.config import TrackingConfig, WandbMode
from rlpost.tracking.console import Console
from rlpost.tracking.jsonl import MetricsWriter
from rlpost.tracking.report import ReportTracker
from rlpost.tracking.rollouts import RolloutWriter
from rlpost.tracking.tracker import Tracker, Trackers
from rlpost.tracking.wandb_mode import resolve_mode
from rlpost.tracking.wandb_tracker import WandbTracker


def build_trackers(
    cfg: TrackingConfig,
    *,
    run_dir: Path,
    resolved: Mapping[str, Any],
    total_steps: int,
    resumed_step: int | None,
) -> Trackers:
    """Open every sink that ``cfg`` asks for.

    Args:
        cfg: the tracking options.
        run_dir: ``runs/<name>``.
        resolved: the run's configuration as plain data.
        total_steps: steps of the whole run.
        resumed_step: the checkpoint's step; None for a fresh start, which removes the
            records of an attempt that never reached a checkpoint.
    """
    console = Console(run_name=run_dir.name, num_steps=total_steps, mode=cfg.console)
    metrics = MetricsWriter(run_dir / "metrics.jsonl")
    rollouts = RolloutWriter(run_dir / "rollouts")
    for writer in (metrics, rollouts):
        writer.truncate_after(-1 if resumed_step is None else resumed_step)
    sinks: list[Tracker] = [metrics, rollouts]
    mode = resolve_mode(cfg.wandb)
    if mode is not WandbMode.disabled:
        wandb = WandbTracker(run_dir, cfg=cfg, mode=mode, run_name=run_dir.name, config=resolved)
        sinks.append(wandb)
    if cfg.report:
        sinks.append(ReportTracker(run_dir))
    return Trackers(sinks, console=console)
