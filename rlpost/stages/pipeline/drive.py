"""A pipeline, from a checked configuration to an exit code.

Owns the order of stages and retries, and what a failing gate does. Refuses to own scores and
decisions (gates.py) and commands (commands.py). Invariants: nothing is written before every check
passed; a stage whose result is complete and whose inputs are the same is not repeated; a result
that a gate refused is never what a later stage starts from, unless the file says ``warn``.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlpost import __version__
from rlpost.checkpoint.state import write_text
from rlpost.config.options import known_keys
from rlpost.errors import UserError
from rlpost.pipeline.decide import Decision
from rlpost.pipeline.spec import BASE, STAGE_PREFIX, OnFail, strings_of
from rlpost.stages.loop import Interrupted
from rlpost.stages.pipeline.child import INTERRUPTED, Children
from rlpost.stages.pipeline.commands import Commands, RunsCommands
from rlpost.stages.pipeline.gates import Gates
from rlpost.stages.pipeline.lineage import STAGES, Lineage, code_hash, hash_tree, recipe_of
from rlpost.stages.pipeline.made import Made
from rlpost.stages.pipeline.overrides import as_text
from rlpost.stages.pipeline.plan import PipelinePlan, PlannedStage, can_roll_back
from rlpost.stages.pipeline.results import require_result
from rlpost.stages.pipeline.sources import hash_sources
from rlpost.stages.registry import Stage
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.files.run_log import run_log

log = logging.getLogger(__name__)

STOPPED = 3  # exit code: a gate stopped the chain


@dataclass(frozen=True, kw_only=True)
class PipelineOutcome:
    """How a pipeline ended and what the person should know."""

    message: str
    exit_code: int = 0


class _Stopped(Exception):
    """A gate stopped the chain; says which."""


def run_pipeline(
    stage: Stage,
    cfg: Any,
    resolved: dict[str, Any],
    *,
    children: RunsCommands | None = None,
) -> PipelineOutcome:
    """Run a pipeline, or go on with one, in ``<run.dir>/<run.name>``.

    ``children`` runs the stages; None: each is a process of its own.

    Raises:
        UserError: refused before anything was written, or a stage refused what it was given.
        RunFailed, InfrastructureError: it cannot go on.
    """
    directory = RunDirectory.of(cfg.run)
    plan: PipelinePlan = stage.part("plan")(cfg, directory=directory)
    with directory.lock(), run_log(directory.log) as terminal, Children.listening() as processes:
        directory.write_config(resolved)
        write_text(plan.places.copy, plan.file.read_text(encoding="utf-8"))
        chain = _Chain(plan=plan, commands=Commands(children or processes, terminal))
        try:
            outcome = PipelineOutcome(message=chain.run())
        except Interrupted:
            outcome = PipelineOutcome(
                message="interrupted; what is done is kept, and the same command goes on",
                exit_code=INTERRUPTED,
            )
        except _Stopped as stopped:
            outcome = PipelineOutcome(message=str(stopped), exit_code=STOPPED)
        log.info("exit code %d: %s", outcome.exit_code, outcome.message)
    return outcome


@dataclass(kw_only=True)
class _Chain:
    """The stages of a plan, one after the other."""

    plan: PipelinePlan
    commands: Commands
    made: dict[str, Made] = field(default_factory=dict)  # by the id of the stage, or base
    lineage: Lineage = field(init=False)
    gates: Gates = field(init=False)

    def __post_init__(self) -> None:
        spec = self.plan.spec
        base = hash_tree(Path(self.plan.base))
        self.made[BASE] = Made(key=BASE, path=Path(self.plan.base), digest=base, called=spec.base)
        head = {
            "pipeline": {"name": spec.name, "file": hash_tree(self.plan.file)},
            "base": {"path": spec.base, "hash": base},
            "code": {"version": __version__, "hash": code_hash()},
        }
        self.lineage = Lineage(self.plan.places, head=head)
        self.gates = Gates(self.plan, self.commands, self.lineage, made=self.made)

    def run(self) -> str:
        """Run every chosen stage; return what to tell the person."""
        self.lineage.save()
        for planned in self.plan.stages:
            if planned.spec.id in self.plan.chosen:
                self._run_stage(planned)
            else:
                self._take_as_it_is(planned)
        return self._farewell()

    def _run_stage(self, planned: PlannedStage) -> None:
        """Run a stage until its gates pass, or no attempt is left."""
        for name in sorted({name for _, name in planned.spec.references()}):
            if name not in self.made:
                raise UserError(
                    f"only: {planned.spec.id} is made of {name}, which is not done; run it too"
                )
        if self.plan.groups:
            self.gates.score(self.made[BASE])
        for attempt in range(1, planned.attempts + 1):
            made, start = self._attempt(planned, attempt)
            failed = self.gates.judge(planned, made, start, attempt=attempt)
            if not failed:
                self._accept(planned, made, "accepted", attempt)
                return
            if attempt < planned.attempts:
                self.commands.say(f"{planned.spec.id}: attempt {attempt} failed; trying again with "
                          f"{_shown(planned.changes[attempt])}")  # fmt: skip
        self._fail(planned, made, start, failed, attempt)

    def _fail(
        self,
        planned: PlannedStage,
        made: Made,
        start: Made,
        failed: Sequence[Decision],
        attempt: int,
    ) -> None:
        """Do what the file says of a stage whose gates failed."""
        spec, policy = planned.spec, self.plan.spec.on_fail_of(planned.spec)
        if policy is OnFail.warn:
            self.commands.warn(f"{spec.id} is used although a gate failed, as on_fail=warn says")
            self._accept(planned, made, "accepted with a warning", attempt)
        elif policy is OnFail.rollback and can_roll_back(spec):
            self.commands.warn(f"{spec.id} is rolled back: {start.key} takes its place")
            self._accept(planned, start, "rolled back", attempt)
        else:
            name = self.plan.places.name(spec.id, attempt=attempt)
            self.lineage.finish(STAGES, name, outcome="stopped")
            raise _Stopped(
                f"stopped at {spec.id}: {failed[0]}; nothing after it was run. Its result is kept "
                f"in {made.path}"
            )

    def _accept(self, planned: PlannedStage, made: Made, outcome: str, attempt: int) -> None:
        self.made[planned.spec.id] = made
        name = self.plan.places.name(planned.spec.id, attempt=attempt)
        self.lineage.finish(STAGES, name, outcome=outcome, stands_for=made.key)

    def _take_as_it_is(self, planned: PlannedStage) -> None:
        """Use what an earlier command made of a stage that is not chosen, if it did."""
        for attempt in range(1, planned.attempts + 1):
            name = self.plan.places.name(planned.spec.id, attempt=attempt)
            record = self.lineage.record(STAGES, name)
            if record is None or "stands_for" not in record:
                continue
            key = record["stands_for"]
            if key == name:
                path = self._output(planned, attempt)
                self.made[planned.spec.id] = Made(key=key, path=path, digest=hash_tree(path))
            else:
                known = {each.key: each for each in self.made.values()}
                if key in known:
                    self.made[planned.spec.id] = known[key]

    def _output(self, planned: PlannedStage, attempt: int) -> Path:
        return self.plan.places.output(planned.spec, attempt=attempt, adapter=planned.adapter)

    def _attempt(self, planned: PlannedStage, attempt: int) -> tuple[Made, Made]:
        """Run one attempt of a stage, unless it is done; return its result and its start."""
        spec, places = planned.spec, self.plan.places
        name = places.name(spec.id, attempt=attempt)
        start = self._start(planned)
        words = self.plan.words(
            planned,
            attempt=attempt,
            start=[each.name for each in start],
            resolve=lambda each: self.made[each].path,
        )
        recipe = recipe_of(spec.run, words, inputs=self._inputs(planned, start), root=places.root)
        run, output = places.run(spec.id, attempt=attempt), self._output(planned, attempt)
        self.lineage.forget_moved(STAGES, name)
        if not self.lineage.is_done(STAGES, name, recipe):
            self.commands.say(
                f"{spec.id}: rlpost {spec.run}, attempt {attempt} of {planned.attempts}"
            )
            self.lineage.begin(STAGES, name, recipe)
            if "resume" in known_keys(spec.run) or not output.exists():
                self.commands.run(spec.run, words, run, what=spec.id)
            if planned.adapter:
                self._merge_adapter(planned, attempt, start[0].name)
            require_result(output, stage=spec.id, kind=spec.output or "model")
            made = Made(key=name, path=output, digest=hash_tree(output))
            result = {"path": str(output.relative_to(places.root)), "hash": made.digest}
            self.lineage.finish(STAGES, name, result=result)
        else:
            record = self.lineage.record(STAGES, name)
            made = Made(key=name, path=output, digest=hash_tree(output))
            if record is None or made.digest != record["result"]["hash"]:
                raise UserError(
                    f"{output} is not what {spec.id} made: its files changed since; restore them, "
                    f"or move {run.root} away to run the stage again"
                )
            self.commands.say(f"{spec.id}: done, {output}")
        return made, start[0]

    def _start(self, planned: PlannedStage) -> list[Made]:
        """Return what a stage starts from; a smaller copy is made if that is what it is."""
        found = [self.made[name] for name in planned.spec.start]
        if planned.spec.prune is None:
            return found
        from rlpost.merging.prune_layers import prune_layers

        path = self.plan.places.pruned(planned.spec.id)
        prune_layers(found[0].path, path, layers=planned.spec.prune.layers)
        return [Made(key=path.name, path=path, digest=hash_tree(path))]

    def _inputs(self, planned: PlannedStage, start: Sequence[Made]) -> dict[str, str]:
        """Return the hashes of everything that a stage is made of."""
        spec = planned.spec
        found = {f"from {each.key}": each.digest for each in start}
        names = {name for place, name in spec.references() if not place.startswith("from")}
        found |= {f"stage {name}": self.made[name].digest for name in names}
        plain = [
            each
            for tree in (spec.data, spec.options)
            for each in strings_of(tree)
            if not each.startswith(STAGE_PREFIX)
        ]
        return found | hash_sources(plain)

    def _merge_adapter(self, planned: PlannedStage, attempt: int, base: str) -> None:
        """Merge the adapter that an attempt trained, so that all that follows is whole models."""
        places = self.plan.places
        merged = places.merged(planned.spec.id, attempt=attempt)
        if merged.export.exists():
            return
        adapter = places.run(planned.spec.id, attempt=attempt).export
        words = [
            f"adapter={as_text(str(adapter))}",
            f"model.path={as_text(base)}",
            f"run.dir={as_text(str(places.stages))}",
            f"run.name={merged.root.name}",
        ]
        self.commands.run("merge", words, merged, what=f"{planned.spec.id}: merging its adapter")

    def _farewell(self) -> str:
        spec = self.plan.spec
        last = next(
            (
                planned.spec.id
                for planned in reversed(self.plan.stages)
                if planned.spec.id in self.made and planned.spec.output == "model"
            ),
            None,
        )
        name = spec.publish if spec.publish in self.made else last
        lines = [f"lineage: {self.plan.places.lineage}"]
        if name is not None:
            lines.insert(0, f"model: {self.made[name].path} ({name})")
        return "\n".join(lines)


def _shown(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in changes.items())
