"""A stage of a few lines: learn to go on with a token that was repeated.

It uses the parts that every stage shares, from outside of ``rlpost``: nothing there knows it.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.reduce import ReductionConfig
from rlpost.checkpoint.store import CheckpointConfig, CheckpointStore
from rlpost.cluster.session import ClusterConfig
from rlpost.config.schema import EvaluationConfig, RunConfig
from rlpost.control.failures import FailureConfig
from rlpost.data.cursor import PromptCursor
from rlpost.stages.fit import Fit
from rlpost.stages.registry import Stage
from rlpost.stages.roles import trained_policy
from rlpost.stages.run import Run
from rlpost.stages.run_directory import RunDirectory, find_resume_point
from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode
from rlpost.training.objective import Objective
from rlpost.training.packing import PackedBatches, pack
from rlpost.training.settings import DType, TrainerConfig
from rlpost.types import Group, Prompt, Span, Trajectory

HERE = "copy_stage"
COPY = Stage(
    name="copy",
    help="learn to go on with a repeated token",
    config=f"{HERE}:CopyConfig",
    check=f"{HERE}:check",
    plan=f"{HERE}:prepare",
    boot=f"{HERE}:boot",
)
OBJECTIVE = Objective(loss=ReinforceConfig(), kl=KLConfig())  # with advantages of 1: likelihood
ROWS, LENGTH = 64, 6


@dataclass(kw_only=True)
class CopyConfig:
    """Options of the stage."""

    model: str
    run: RunConfig
    seed: int = 0
    examples_per_step: int = 8
    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(steps=6, lr=1e-2, dtype=DType.float32, threads=1)
    )
    evaluation: EvaluationConfig = field(default_factory=lambda: EvaluationConfig(every=3))
    checkpoint: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(every=1, keep=9))
    failures: FailureConfig = field(default_factory=FailureConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(
        default_factory=lambda: TrackingConfig(
            wandb=WandbMode.disabled, console=ConsoleMode.quiet, report=False
        )
    )


@dataclass(frozen=True, kw_only=True)
class CopyPlan:
    """A run that can start."""

    cfg: CopyConfig
    resolved: dict[str, Any]
    directory: RunDirectory
    store: CheckpointStore
    resume_from: Path | None
    processes: tuple[str, ...] = ("1 trainer rank",)


def prepare(cfg: CopyConfig, resolved: dict[str, Any], *, directory: RunDirectory) -> CopyPlan:
    store = CheckpointStore(directory.checkpoints, keep=cfg.checkpoint.keep)
    resume_from = find_resume_point(directory, store, resume="auto", resolved=resolved)
    return CopyPlan(
        cfg=cfg, resolved=resolved, directory=directory, store=store, resume_from=resume_from
    )


@asynccontextmanager
async def boot(plan: CopyPlan, run: Run) -> AsyncIterator[Fit]:
    cfg = plan.cfg
    cursor = run.keep("cursor", PromptCursor(ROWS, seed=cfg.seed))

    async def batch() -> PackedBatches:
        return packed([row for _, row in cursor.take(cfg.examples_per_step)])

    async with trained_policy(run, model_path=cfg.model) as policy:

        async def heldout() -> dict[str, float]:
            said = await policy.logprobs(packed(range(ROWS, ROWS + 8)), temperature=1.0)
            return {"val-core/copy/nll": -float(said[0][0].mean())}

        yield Fit(
            run=run,
            policy=policy,
            objective=OBJECTIVE,
            batch=batch,
            base=cfg.model,
            stage="copy",
            heldout=heldout,
        )


def packed(rows: Any) -> PackedBatches:
    groups = [example(row) for row in rows]
    ones = [[1.0]] * len(groups)
    return pack(groups, ones, num_ranks=1, max_tokens=2048, reduction=ReductionConfig())


def example(row: int) -> Group:
    token = random.Random(row).randrange(40, 60)
    trajectory = Trajectory(
        uid=f"0:{row}",
        sample=0,
        prompt_ids=(token, token),
        response_ids=(token,) * LENGTH,
        rollout_logprobs=(0.0,) * LENGTH,
        spans=(Span(start=0, end=LENGTH, version=0),),
        finish_reason="stop",
        text="",
        seed=0,
        reward=1.0,
    )
    prompt = Prompt(uid=f"0:{row}", token_ids=(token, token), text="")
    return Group(prompt=prompt, trajectories=(trajectory,))
