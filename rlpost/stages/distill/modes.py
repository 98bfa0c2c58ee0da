"""The two modes of ``rlpost distill``: given responses, and the student's own samples.

Owns which of them a run is in. Refuses to own both.
"""

from contextlib import AbstractAsyncContextManager

from rlpost.cluster.session import Device
from rlpost.stages.distill import boot as offline
from rlpost.stages.distill.config import DistillConfig
from rlpost.stages.distill.online import (
    OnlineDistillPlan,
    boot_online,
    estimate_online,
    prepare_online,
)
from rlpost.stages.distill.prepare import DistillPlan
from rlpost.stages.distill.prepare import prepare as prepare_offline
from rlpost.stages.estimate import Estimate
from rlpost.stages.learning import estimate as rows
from rlpost.stages.loop import Job
from rlpost.stages.run import Run
from rlpost.stages.run_directory import RunDirectory


def prepare(
    cfg: DistillConfig, *, directory: RunDirectory, device: Device | None = None
) -> DistillPlan | OnlineDistillPlan:
    """Check everything that can be checked without starting anything.

    Raises:
        UserError, DataError: something the user can fix.
    """
    chosen = prepare_online if cfg.data.online else prepare_offline
    return chosen(cfg, directory=directory, device=device)


def boot(plan: DistillPlan | OnlineDistillPlan, run: Run) -> AbstractAsyncContextManager[Job]:
    """Start the roles and yield the job.

    Raises:
        UserError, InfrastructureError: it does not come up.
    """
    if isinstance(plan, OnlineDistillPlan):
        return boot_online(plan, run)
    return offline.boot(plan, run)


def estimate(plan: DistillPlan | OnlineDistillPlan, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``; see ``add_up``."""
    if isinstance(plan, OnlineDistillPlan):
        return estimate_online(plan, gpu_bytes=gpu_bytes)
    return rows.estimate(plan, gpu_bytes=gpu_bytes)
