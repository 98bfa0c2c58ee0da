"""Seconds of a weight push, by phase, beside a plain copy of the same bytes.

The parts of `rlpost rl` without the loop: real trainer, real engine, real bus. With an adapter
it is the adapter that is pushed, and its share of the model's bytes is told.

    .venv/bin/python benchmarks/push.py --pushes 8 [adapter=lora adapter.rank=16] [hydra overrides]
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

import torch

from rlpost.checkpoint.store import CheckpointStore
from rlpost.cluster.session import Session
from rlpost.config.compose import compose_stage
from rlpost.models.locate import parameter_count
from rlpost.rollout.generator_config import GeneratorDtype
from rlpost.stages.rl.boot import boot
from rlpost.stages.rl.plan import RLPlan, prepare
from rlpost.stages.run import Run
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.tracker import Trackers
from rlpost.weights.protocol import PushReport

PHASES = ("push_s", "stage_s", "load_s", "probe_s")


def prepared(overrides: list[str], root: Path) -> tuple[RLPlan, Run]:
    """Return the quickstart's plan, changed by overrides, and its run without a session."""
    cfg, _ = compose_stage(["experiment=quickstart", *overrides], stage="rl")
    directory = RunDirectory(root=root)
    plan = prepare(cfg, directory=directory)
    run = Run(
        stage="rl",
        cfg=cfg,
        directory=directory,
        store=CheckpointStore(directory.checkpoints),
        config_hash="",
        resume_from=None,
        tracker=Trackers([]),
    )
    return plan, run


def model_bytes(plan: RLPlan) -> int:
    """Size of the whole model as generators hold it."""
    value_bytes = 4 if plan.sampling.generator.dtype is GeneratorDtype.float32 else 2
    return value_bytes * parameter_count(plan.sampling.model_path)


async def pushes(plan: RLPlan, run: Run, *, count: int) -> list[PushReport]:
    with Session(plan.cfg.cluster) as run.session:
        async with aclosing(run), boot(plan, run) as job:
            return [await job.parts.sampling.bus.publish() for _ in range(count)]


def copy_s(size_bytes: int) -> float:
    """One copy from memory into a fresh shared-memory file, as any transport must do."""
    source = torch.ones(size_bytes, dtype=torch.uint8)
    path = Path("/dev/shm") / f"copy-{os.getpid()}"
    start = time.perf_counter()
    torch.from_file(str(path), shared=True, size=size_bytes, dtype=torch.uint8).copy_(source)
    elapsed = time.perf_counter() - start
    path.unlink()
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pushes", type=int, default=8)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        plan, run = prepared(args.overrides, Path(root) / "push")
        reports = asyncio.run(pushes(plan, run, count=args.pushes))
        whole = model_bytes(plan)
    first, *later = reports
    print(
        f"{first.size_bytes / 1e6:.1f} MB, {first.size_bytes / whole:.1%} of the model; "
        f"first push {first.push_s:.2f} s; then, median (worst):"
    )
    for phase in PHASES:
        seconds = [getattr(report, phase) for report in later]
        print(f"  {phase:8} {statistics.median(seconds):.3f} ({max(seconds):.3f})")
    unproved = [report.push_s - report.probe_s for report in later]
    print(f"  no probe {statistics.median(unproved):.3f} ({max(unproved):.3f})")
    print(f"  copy     {statistics.median(copy_s(first.size_bytes) for _ in range(3)):.3f}")
    print(f"  largest probe difference {max(r.probe_logprob_diff_max for r in reports):.1e}")


if __name__ == "__main__":
    main()
