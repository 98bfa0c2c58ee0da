"""The two modes of ``rlpost preference``: pairs of a data set, and pairs of its own samples.

Owns which of them a run is in. Refuses to own both.
"""

from contextlib import AbstractAsyncContextManager

from rlpost.cluster.session import Device
from rlpost.stages.estimate import Estimate
from rlpost.stages.learning import estimate as rows
from rlpost.stages.loop import Job
from rlpost.stages.preference import boot as offline
from rlpost.stages.preference.config import PreferenceConfig
from rlpost.stages.preference.online.boot import boot_online
from rlpost.stages.preference.online.plan import OnlinePlan, estimate_online, prepare_online
from rlpost.stages.preference.prepare import PreferencePlan
from rlpost.stages.preference.prepare import prepare as prepare_offline
from rlpost.stages.run import Run
from rlpost.stages.run_directory import RunDirectory


def prepare(
    cfg: PreferenceConfig, *, directory: RunDirectory, device: Device | None = None
) -> PreferencePlan | OnlinePlan:
    """Check everything that can be checked without starting anything.

    Raises:
        UserError, DataError: something the user can fix.
    """
    chosen = prepare_online if cfg.data.online else prepare_offline
    return chosen(cfg, directory=directory, device=device)


def boot(plan: PreferencePlan | OnlinePlan, run: Run) -> AbstractAsyncContextManager[Job]:
    """Start the roles and yield the job.

    Raises:
        UserError, InfrastructureError: it does not come up.
    """
    if isinstance(plan, OnlinePlan):
        return boot_online(plan, run)
    return offline.boot(plan, run)


def estimate(plan: PreferencePlan | OnlinePlan, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``; see ``add_up``."""
    if isinstance(plan, OnlinePlan):
        return estimate_online(plan, gpu_bytes=gpu_bytes)
    return rows.estimate(plan, gpu_bytes=gpu_bytes)
