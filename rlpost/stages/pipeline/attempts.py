"""One attempt of a stage: run, continued, or found done.

Owns what an attempt is made of and what it made. Refuses to own retries and what a failing gate
does (drive.py). Invariants: a result is handed on only if it is complete and nobody changed it; a
stage that trained an adapter hands on a whole model.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from rlpost.config.options import known_keys
from rlpost.errors import UserError
from rlpost.pipeline.spec import STAGE_PREFIX, strings_of
from rlpost.stages.pipeline.chain import Chain
from rlpost.stages.pipeline.composed import PlannedStage
from rlpost.stages.pipeline.lineage import STAGES, hash_tree, recipe_of
from rlpost.stages.pipeline.made import Made
from rlpost.stages.pipeline.overrides import as_text
from rlpost.stages.pipeline.results import require_result
from rlpost.stages.pipeline.sources import hash_sources


class StageAttempts:
    """Runs attempts of stages."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def output(self, planned: PlannedStage, attempt: int) -> Path:
        """Return what an attempt makes."""
        return self._chain.plan.places.output(
            planned.spec, attempt=attempt, adapter=planned.adapter
        )

    def run(self, planned: PlannedStage, attempt: int) -> tuple[Made, Made]:
        """Run one attempt of a stage, unless it is done; return its result and its start.

        Raises:
            UserError: it was made in another way, or its result was changed since.
            RunFailed: it failed.
            Interrupted: the pipeline was told to end.
        """
        spec, places = planned.spec, self._chain.plan.places
        name = places.name(spec.id, attempt=attempt)
        self._chain.lineage.forget_moved(STAGES, name)
        start = self._start(planned, begun=self._chain.lineage.record(STAGES, name) is not None)
        words = self._chain.plan.words(
            planned,
            attempt=attempt,
            start=[each.name for each in start],
            resolve=lambda each: self._chain.made[each].path,
        )
        recipe = recipe_of(spec.run, words, inputs=self._inputs(planned, start), root=places.root)
        run, output = places.run(spec.id, attempt=attempt), self.output(planned, attempt)
        if not self._chain.lineage.is_done(STAGES, name, recipe):
            self._chain.commands.say(
                f"{spec.id}: rlpost {spec.run}, attempt {attempt} of {planned.attempts}"
            )
            self._chain.lineage.begin(STAGES, name, recipe)
            if "resume" in known_keys(spec.run) or not output.exists():
                self._chain.commands.run(spec.run, words, run, what=spec.id)
            if planned.adapter:
                self._merge_adapter(planned, attempt, start[0].name)
            require_result(output, stage=spec.id, kind=spec.output or "model")
            made = Made(key=name, path=output, digest=hash_tree(output))
            result = {"path": str(output.relative_to(places.root)), "hash": made.digest}
            self._chain.lineage.finish(STAGES, name, result=result)
        else:
            record = self._chain.lineage.record(STAGES, name)
            made = Made(key=name, path=output, digest=hash_tree(output))
            if record is None or made.digest != record["result"]["hash"]:
                raise UserError(
                    f"{output} is not what {spec.id} made: its files changed since; restore them, "
                    f"or move {run.root} away to run the stage again"
                )
            self._chain.commands.say(f"{spec.id}: done, {output}")
        return made, start[0]

    def _start(self, planned: PlannedStage, *, begun: bool) -> list[Made]:
        """Return what a stage starts from; a smaller copy is made if that is what it is."""
        found = [self._chain.made[name] for name in planned.spec.start]
        prune = planned.spec.prune
        if prune is None:
            return found
        from rlpost.merging.prune_layers import prune_layers

        path = self._chain.plan.places.pruned(planned.spec.id)
        if not begun:  # a copy of an earlier model, or of other layers, if it is there
            shutil.rmtree(path, ignore_errors=True)
        prune_layers(found[0].path, path, layers=prune.layers)
        made_of = f"{prune.layers} layers of {found[0].key}"
        return [Made(key=path.name, path=path, digest=hash_tree(path), made_of=made_of)]

    def _inputs(self, planned: PlannedStage, start: Sequence[Made]) -> dict[str, str]:
        """Return the hashes of everything that a stage is made of."""
        spec = planned.spec
        found = {f"from {each.made_of or each.key}": each.digest for each in start}
        names = {name for place, name in spec.references() if not place.startswith("from")}
        found |= {f"stage {name}": self._chain.made[name].digest for name in names}
        plain = [
            each
            for tree in (spec.data, spec.options)
            for each in strings_of(tree)
            if not each.startswith(STAGE_PREFIX)
        ]
        return found | hash_sources(plain)

    def _merge_adapter(self, planned: PlannedStage, attempt: int, base: str) -> None:
        """Merge the adapter that an attempt trained, so that all that follows is whole models."""
        places = self._chain.plan.places
        merged = places.merged(planned.spec.id, attempt=attempt)
        shutil.rmtree(merged.root, ignore_errors=True)  # of an adapter that was trained before
        adapter = places.run(planned.spec.id, attempt=attempt).export
        words = [
            f"adapter={as_text(str(adapter))}",
            f"model.path={as_text(base)}",
            f"run.dir={as_text(str(places.stages))}",
            f"run.name={merged.root.name}",
        ]
        self._chain.commands.run(
            "merge", words, merged, what=f"{planned.spec.id}: merging its adapter"
        )
