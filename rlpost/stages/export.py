"""``export/``: the model that a run made, in Hugging Face layout.

Owns that an earlier export is replaced only by a complete one, and the card beside the weights.
Refuses to own the weights (the trained group writes them).
"""

import shutil
from pathlib import Path
from typing import Protocol

from rlpost.errors import GroupLost, RunFailed
from rlpost.models.card import write_model_card
from rlpost.stages.run import Run
from rlpost.tracking.boundary import attempt
from rlpost.tracking.files.jsonl import read_metrics
from rlpost.tracking.heldout import heldout_change


class Exports(Protocol):
    """A trained group whose model is the result of a run."""

    async def export(self, directory: Path) -> None:
        """Write the model into ``directory``."""


async def export_model(
    run: Run, group: Exports, *, base: str, stage: str, system_prompt: str | None = None
) -> None:
    """Write ``export/``.

    Args:
        run: of ``run.step`` completed steps.
        group: writes the weights.
        base: the model that the run started from, as the user called it.
        stage: what trained it.
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
        write_model_card(
            scratch,
            base=base,
            stage=stage,
            step=run.step if run.exported_step is None else run.exported_step,
            run_step=run.step,
            which=run.cfg.export.which.value,
            run=run.directory.root.name,
            location=final,
            system_prompt=system_prompt,
            measured=attempt("reading the metrics", lambda: heldout_change(read_metrics(metrics))),
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
