"""A stage of a few lines: learn to go on with a token that was repeated.

It uses the parts that every stage shares, from outside of ``rlpost``: nothing there knows it.
"""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.bounds import check_config
from rlpost.checkpoint.store import CheckpointConfig
from rlpost.cluster.session import ClusterConfig, Device
from rlpost.config.schema import EvaluationConfig, RunConfig
from rlpost.control.early_stopping import EarlyStoppingConfig
from rlpost.control.failures import FailureConfig
from rlpost.data.cursor import PromptCursor
from rlpost.stages.fit import Fit
from rlpost.stages.registry import Stage
from rlpost.stages.results import ExportConfig, check_results
from rlpost.stages.roles import Role, trained_role
from rlpost.stages.run import Run
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.step_size import StepSize
from rlpost.training.packing.units import Unit
from rlpost.training.settings import DType, TrainerConfig

HERE = "copy_stage"
COPY = Stage(
    name="copy",
    help="learn to go on with a repeated token",
    config=f"{HERE}:CopyConfig",
    check=f"{HERE}:check",
    plan=f"{HERE}:prepare",
    boot=f"{HERE}:boot",
)
ROWS, LENGTH = 64, 6


@dataclass(kw_only=True)
class CopyConfig:
    """Options of the stage."""

    model: str
    run: RunConfig = field(default_factory=RunConfig)
    seed: int = 0
    resume: str = "auto"
    examples_per_step: int = 8
    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(steps=6, lr=1e-2, dtype=DType.float32, threads=1)
    )
    evaluation: EvaluationConfig = field(default_factory=lambda: EvaluationConfig(every=3))
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
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
    roles: list[Role]

    @property
    def step_size(self) -> StepSize:
        return StepSize(tokens=self.cfg.examples_per_step * (2 + LENGTH))


def check(cfg: CopyConfig) -> None:
    """Refuse numbers beyond their bounds."""
    check_config(cfg)
    check_results(cfg)


def prepare(cfg: CopyConfig, *, directory: RunDirectory, device: Device) -> CopyPlan:
    policy = trained_role(
        "trainer",
        cfg.trainer,
        model=TrainedModel.policy(cfg.model, cfg.trainer),
        seed=cfg.seed,
        cluster=cfg.cluster,
        device=device,
    )
    return CopyPlan(cfg=cfg, roles=[policy])


@asynccontextmanager
async def boot(plan: CopyPlan, run: Run) -> AsyncIterator[Fit]:
    cfg = plan.cfg
    (policy,) = await run.start(plan.roles)
    cursor = run.keep("cursor", PromptCursor(ROWS, seed=cfg.seed))

    async def batch() -> Packed:
        return packed([row for _, row in cursor.take(cfg.examples_per_step)])

    async def heldout() -> dict[str, float]:
        said = await policy.score(packed(range(ROWS, ROWS + 8)))
        return {"val-core/copy/nll": -float(said[0][0].mean())}

    yield Fit(
        run=run,
        policy=policy,
        objective=LikelihoodObjective(),
        batch=batch,
        base=cfg.model,
        stage="copy",
        heldout=heldout,
    )


def packed(rows: Sequence[int]) -> Packed:
    """Each row a unit: two tokens to read, and as many more of the same to learn."""
    scored = np.array([False, False] + [True] * LENGTH)
    units = [
        Unit.of([random.Random(row).randrange(40, 60)] * len(scored), scored=scored, number=number)
        for number, row in enumerate(rows)
    ]
    weight = np.full(LENGTH, 1 / (len(units) * LENGTH))
    return pack(units, num_ranks=1, max_tokens=2048).attach(
        weight_R=dict.fromkeys(range(len(units)), weight)
    )
