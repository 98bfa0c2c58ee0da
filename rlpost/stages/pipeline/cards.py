"""What the cards of a pipeline's models say of the chain, and the model that is its result.

Owns when cards are written again, and ``export/`` of a pipeline. Refuses to own the text
(models/chain_card.py). Invariants: a file whose content stays the same is not touched; ``export/``
is complete or absent, and is what the published stage made.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.errors import RunFailed
from rlpost.models.chain_card import with_chain
from rlpost.models.origin import RECORD, read_plain
from rlpost.pipeline.graph import ancestors
from rlpost.stages.pipeline.lineage import STAGES, Lineage, hash_tree
from rlpost.stages.pipeline.made import Made
from rlpost.stages.pipeline.plan import PipelinePlan

_CARD = "README.md"


class Cards:
    """The cards of one pipeline.

    Args:
        plan: of the pipeline.
        lineage: what its models were made of.
    """

    def __init__(self, plan: PipelinePlan, lineage: Lineage) -> None:
        self._plan = plan
        self._lineage = lineage

    def tell(self, stage: str, directory: Path) -> None:
        """Write into the card of what ``stage`` made how the pipeline made it."""
        card = directory / _CARD
        if not card.is_file():  # a data set has none
            return
        chain = self._chain(stage)
        _write(card, with_chain(card.read_text(encoding="utf-8"), chain))
        _record(directory, chain)

    def _chain(self, stage: str) -> dict[str, Any]:
        needed = ancestors(self._plan.spec, stage)
        return self._lineage.chain([e.spec.id for e in self._plan.stages if e.spec.id in needed])

    def publish(self, stage: str, made: Made) -> Path:
        """Copy what stands for ``stage`` to ``export/`` of the pipeline; return that directory.

        Raises:
            RunFailed: it could not be written.
        """
        final = self._plan.places.export
        chain = self._chain(stage)
        source = made.path / _CARD
        text = source.read_text(encoding="utf-8") if source.is_file() else f"# {final.parent.name}"
        text = with_chain(text.replace(str(made.path), str(final)), chain, stands_for=stage)
        try:
            if not final.exists() or hash_tree(final) != made.digest:
                scratch = final.with_name(".export-scratch")
                shutil.rmtree(scratch, ignore_errors=True)
                shutil.copytree(made.path, scratch)
                _write(scratch / _CARD, text)
                _record(scratch, chain)
                shutil.rmtree(final, ignore_errors=True)
                scratch.rename(final)
            _write(final / _CARD, text)
            _record(final, chain)
        except OSError as error:
            raise RunFailed(
                f"{made.path} could not be copied to {final}: {error}. Mend the cause and give the "
                "same command again, which repeats nothing else"
            ) from error
        self._lineage.publish({"stage": stage, "stands_for": made.key, "hash": made.digest})
        return final


def _record(directory: Path, chain: dict[str, Any]) -> None:
    file = directory / RECORD
    if file.is_file():
        # Parsed anew, so that what was read and what was just made have one order.
        told = {**chain, STAGES: {k: json.loads(_sorted(v)) for k, v in chain[STAGES].items()}}
        _write(file, json.dumps({**read_plain(file), "pipeline": told}, indent=2) + "\n")


def _sorted(tree: Any) -> str:
    return json.dumps(tree, sort_keys=True)


def _write(file: Path, text: str) -> None:
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)
