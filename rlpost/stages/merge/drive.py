"""A merge, from a checked configuration to a model directory.

Owns the order of writing. Refuses to own values (merging/) and what is written (adapter.py,
several.py). Invariants: nothing is written before every check passed; ``export`` appears complete
or not at all, also when the process is killed.
"""

import logging
import shutil
from typing import Any

from rlpost import stop_signals
from rlpost.stages.driver import RunOutcome
from rlpost.stages.merge.config import MergeConfig
from rlpost.stages.merge.plan import MergePlan
from rlpost.stages.registry import Stage
from rlpost.stages.resume_point import config_hash
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.files.run_log import run_log
from rlpost.tracking.tracker import RunStatus

log = logging.getLogger(__name__)


def merge(stage: Stage, cfg: MergeConfig, resolved: dict[str, Any]) -> RunOutcome:
    """Write ``<run.dir>/<run.name>/export``.

    Raises:
        UserError: refused before anything was kept.
        RunFailed: the result is not what it should be.
    """
    directory = RunDirectory.of(cfg.run)
    plan: MergePlan = stage.part("plan")(cfg, directory=directory)
    stop_signals.heed()
    with directory.lock(), run_log(directory.log):
        directory.write_config(resolved)
        scratch = directory.export.with_name(".export-scratch")
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            told = plan.write(scratch, directory=directory, settings_hash=config_hash(resolved))
            scratch.rename(directory.export)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        message = f"model: {directory.export}" + (f"\n{told}" if told else "")
        log.info("%s", message)
    return RunOutcome(status=RunStatus.done, message=message)
