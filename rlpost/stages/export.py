"""``export/``: the model that a run made, in Hugging Face layout.

Owns that an earlier export is replaced only by a complete one, and the card beside the weights.
Refuses to own the weights (the trained group writes them).
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rlpost.errors import GroupLost, RunFailed
from rlpost.models.card import write_model_card
from rlpost.models.origin import DataUsed, ModelOrigin
from rlpost.stages.run import Run
from rlpost.tracking.boundary import attempt
from rlpost.tracking.files.jsonl import Row, read_metrics
from rlpost.tracking.heldout import heldout_change, heldout_result


class Exports(Protocol):
    """A trained group whose model is the result of a run."""

    async def export(self, directory: Path) -> None:
        """Write the model into ``directory``."""


async def export_model(
    run: Run,
    group: Exports,
    *,
    base: str,
    stage: str,
    data: Sequence[DataUsed] = (),
    system_prompt: str | None = None,
) -> None:
    """Write ``export/``.

    Args:
        run: of ``run.step`` completed steps.
        group: writes the weights, of step ``run.exported_step``.
        base: the model that the run started from, as the user called it.
        stage: what trained it.
        data: what was read, for the card.
        system_prompt: which the model was trained with, for the card's examples.

    Raises:
        GroupLost: the trainer is gone.
        RunFailed: it could not be written; says how to try again.
    """
    final, metrics = run.directory.export, run.directory.metrics
    scratch = final.with_name(".export-scratch")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        await group.export(scratch)
        origin = _origin(run, base=base, stage=stage, data=data)
        rows = attempt("reading the metrics", lambda: read_metrics(metrics)) or []
        results = _results([row for row in rows if row["step"] <= origin.step])
        write_model_card(
            scratch,
            replace(origin, results=results),
            location=final,
            system_prompt=system_prompt,
            measured=heldout_change([row for row in rows if row["step"] <= origin.step]),
        )
        shutil.rmtree(final, ignore_errors=True)
        scratch.rename(final)
    except GroupLost:
        raise
    except Exception as error:
        raise RunFailed(
            f"the model of step {run.step} could not be exported: {error}. Nothing is lost: "
            f"training is saved in {run.store.latest(hashes=False)}. Mend the cause and run "
            "the same command again, which exports without training again"
        ) from error


def _origin(run: Run, *, base: str, stage: str, data: Sequence[DataUsed]) -> ModelOrigin:
    return ModelOrigin(
        base=base,
        stage=stage,
        run=run.directory.root.name,
        step=run.step if run.exported_step is None else run.exported_step,
        run_step=run.step,
        which=run.cfg.export.which.value,
        config_hash=run.config_hash,
        data=tuple(data),
        cost=run.cost.metrics(),
    )


def _results(rows: Sequence[Row]) -> dict[str, float]:
    """Return the held-out metrics of the last evaluation among ``rows``."""
    evaluated = [row for row in rows if heldout_result(row) is not None]
    if not evaluated:
        return {}
    return {
        name: value
        for name, value in evaluated[-1].items()
        if value is not None and (name.startswith("val-") or "/heldout_" in name)
    }
