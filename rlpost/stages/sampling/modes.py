"""A stage of two modes: rows of a data set, and with ``data.online=true`` the policy's own samples.

Owns which of them a run is in. Refuses to own both.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from rlpost.cluster.session import Device
from rlpost.roofline.steps import StepTime
from rlpost.stages.estimate import Estimate, add_up
from rlpost.stages.loop import Job
from rlpost.stages.run import Run
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.step_time import PlannedOn

Boot = Callable[[Any, Run], AbstractAsyncContextManager[Job]]


@dataclass(frozen=True, kw_only=True)
class Modes:
    """The parts of both modes, each as ``stages.registry.Stage`` says."""

    prepare_rows: Callable[..., Any]
    prepare_online: Callable[..., Any]
    boot_rows: Boot
    boot_online: Boot
    estimate_online: Callable[..., Estimate]
    timing_rows: Callable[..., StepTime]
    timing_online: Callable[..., StepTime]

    def prepare(self, cfg: Any, *, directory: RunDirectory, device: Device | None = None) -> Any:
        """Check everything that can be checked without starting anything.

        Raises:
            UserError, DataError: something the user can fix.
        """
        chosen = self.prepare_online if cfg.data.online else self.prepare_rows
        return chosen(cfg, directory=directory, device=device)

    def boot(self, plan: Any, run: Run) -> AbstractAsyncContextManager[Job]:
        """Start the roles and yield the job.

        Raises:
            UserError, InfrastructureError: it does not come up.
        """
        chosen = self.boot_online if plan.cfg.data.online else self.boot_rows
        return chosen(plan, run)

    def estimate(self, plan: Any, *, gpu_bytes: float | None) -> Estimate:
        """Add up every process of ``plan``; see ``add_up``."""
        chosen = self.estimate_online if plan.cfg.data.online else add_up
        return chosen(plan, gpu_bytes=gpu_bytes)

    def timing(self, plan: Any, on: PlannedOn, *, mean_response: float | None) -> StepTime:
        """Return the parts of a step of ``plan``.

        Raises:
            UserError: ``mean_response`` has no effect, or an engine cannot hold one sequence.
        """
        chosen = self.timing_online if plan.cfg.data.online else self.timing_rows
        return chosen(plan, on, mean_response=mean_response)
