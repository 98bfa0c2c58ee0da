"""A merge, from a checked configuration to a model directory.

Owns the order of writing. Refuses to own values (merging/). Invariants: nothing is written before
every check passed; ``export`` appears complete or not at all, also when the process is killed.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from rlpost.errors import RunFailed
from rlpost.merging.drift import LogprobDrift, measure_drift
from rlpost.merging.weights_file import write_weights
from rlpost.models.card import write_model_card
from rlpost.models.directory.weight_files import SINGLE
from rlpost.models.export import write_model
from rlpost.models.origin import ModelOrigin, export_record
from rlpost.stages.driver import RunOutcome
from rlpost.stages.merge.config import MergeConfig
from rlpost.stages.merge.plan import MergePlan
from rlpost.stages.registry import Stage
from rlpost.stages.run_directory import RunDirectory, config_hash
from rlpost.tracking.files.run_log import run_log
from rlpost.tracking.tracker import RunStatus

log = logging.getLogger(__name__)

_MOST_DRIFT = 1.0  # nats; rounding to 16 bits costs some hundredths


def merge(stage: Stage, cfg: MergeConfig, resolved: dict[str, Any]) -> RunOutcome:
    """Write ``<run.dir>/<run.name>/export``.

    Raises:
        UserError: refused before anything was written.
        RunFailed: the result is not what it should be.
    """
    assert cfg.run.name is not None
    directory = RunDirectory(root=Path(cfg.run.dir).expanduser() / cfg.run.name)
    plan: MergePlan = stage.part("plan")(cfg, directory=directory)
    with directory.lock(), run_log(directory.log):
        directory.write_config(resolved)
        scratch = directory.export.with_name(".export-scratch")
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            _write_model(plan, scratch)
            drift = _measured(plan, scratch)
            _write_card(plan, scratch, directory, drift, config_hash(resolved))
            scratch.rename(directory.export)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        message = f"model: {directory.export}" + (f"\n{drift}" if drift else "")
        log.info("%s", message)
    return RunOutcome(status=RunStatus.done, message=message)


def _write_model(plan: MergePlan, directory: Path) -> None:
    base = plan.merge.base
    shell = base.shell(dtype=plan.merge.dtype)
    write_model(shell, {}, directory, start=base.path, tokenizer_path=base.path)
    (directory / SINGLE).unlink(missing_ok=True)  # of no tensors
    with plan.merge.opened() as value_of:
        write_weights(directory, plan.merge.planned, value_of)


def _measured(plan: MergePlan, directory: Path) -> LogprobDrift | None:
    """Return how far the result is from what it was made of; None: nobody wants to know."""
    if not plan.sequences:
        return None
    drift = measure_drift(
        plan.merge.base.path,
        plan.adapter.path,
        directory,
        plan.sequences,
        requantised=plan.merge.requantised,
    )
    if not drift.mean < _MOST_DRIFT:
        raise RunFailed(
            f"the merged model is not what base and adapter are together: {drift}; nothing was "
            "kept. Use merge.dtype=float32, or the adapter without merging it"
        )
    return drift


def _write_card(
    plan: MergePlan,
    scratch: Path,
    directory: RunDirectory,
    drift: LogprobDrift | None,
    settings_hash: str,
) -> None:
    record = export_record(plan.adapter.path)
    results = {} if drift is None else {"merge/logprob_drift_mean": drift.mean}
    origin = ModelOrigin(
        base=plan.base_name if record is None else str(plan.adapter.path),
        stage="merge",
        run=directory.root.name,
        step=0 if record is None else record["step"],
        run_step=0 if record is None else record["run_step"],
        config_hash=settings_hash,
        results=results,
        how=f"with the adapter {plan.adapter.path} merged in",
    )
    write_model_card(scratch, origin, location=directory.export, measured=drift and str(drift))
