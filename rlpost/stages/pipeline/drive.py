"""A pipeline, from a checked configuration to an exit code.

Owns the order of stages and retries, and what a failing gate does. Refuses to own attempts
(attempts.py), scores and decisions (gates.py) and commands (commands.py). Invariants: nothing is
written before every check passed; a stage whose result is complete and whose inputs are the same is
not repeated; a result that a gate refused is never what a later stage starts from, unless the file
says ``warn``.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlpost import __version__, stop_signals
from rlpost.checkpoint.state import write_text
from rlpost.errors import UserError
from rlpost.pipeline.decide import Decision
from rlpost.pipeline.spec import BASE, OnFail
from rlpost.stages.loop import Interrupted
from rlpost.stages.pipeline.attempts import StageAttempts
from rlpost.stages.pipeline.cards import Cards
from rlpost.stages.pipeline.chain import Chain
from rlpost.stages.pipeline.checks import can_roll_back
from rlpost.stages.pipeline.child import INTERRUPTED, Children
from rlpost.stages.pipeline.commands import Commands, RunsCommands
from rlpost.stages.pipeline.composed import PlannedStage
from rlpost.stages.pipeline.gates import Gates
from rlpost.stages.pipeline.lineage import STAGES, Lineage, code_hash, hash_tree
from rlpost.stages.pipeline.made import Made
from rlpost.stages.pipeline.page import write_page
from rlpost.stages.pipeline.plan import PipelinePlan
from rlpost.stages.registry import Stage
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.boundary import attempt as attempted
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
    stop_signals.heed()
    with directory.lock(), run_log(directory.log) as terminal, Children.listening() as processes:
        directory.write_config(resolved)
        write_text(plan.places.copy, plan.file.read_text(encoding="utf-8"))
        running = _Run(plan=plan, commands=Commands(children or processes, terminal))
        try:
            running.run()
            outcome = PipelineOutcome(message=running.farewell())
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
class _Run:
    """The stages of a plan, one after the other."""

    plan: PipelinePlan
    commands: Commands
    made: dict[str, Made] = field(default_factory=dict)  # by the id of the stage, or base
    lineage: Lineage = field(init=False)
    attempts: StageAttempts = field(init=False)
    gates: Gates = field(init=False)
    cards: Cards = field(init=False)

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
        chain = Chain(plan=self.plan, commands=self.commands, lineage=self.lineage, made=self.made)
        self.attempts, self.gates = StageAttempts(chain), Gates(chain)
        self.cards = Cards(self.plan, self.lineage)

    def run(self) -> None:
        """Run every chosen stage."""
        self.lineage.save()
        for planned in self.plan.stages:
            if planned.spec.id in self.plan.chosen:
                self._run_stage(planned)
            else:
                self._take_as_it_is(planned)

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
            made, start = self.attempts.run(planned, attempt)
            failed = self.gates.judge(planned, made, start, attempt=attempt)
            if not failed:
                self._end(planned, attempt, "accepted", made)
                return
            if attempt < planned.attempts:
                self._end(planned, attempt, "failed", None)
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
            self._end(planned, attempt, "accepted with a warning", made)
        elif policy is OnFail.rollback and can_roll_back(spec):
            self.commands.warn(f"{spec.id} is rolled back: {start.key} takes its place")
            self._end(planned, attempt, "rolled back", start)
        else:
            self._end(planned, attempt, "stopped", None)
            raise _Stopped(
                f"stopped at {spec.id}: {failed[0]}; nothing after it was run. Its result is kept "
                f"in {made.path}"
            )

    def _end(self, planned: PlannedStage, attempt: int, outcome: str, made: Made | None) -> None:
        """Record how an attempt ended, and what stands for its stage, if anything does."""
        known: dict[str, Any] = {"outcome": outcome}
        if made is not None:
            self.made[planned.spec.id] = made
            known["stands_for"] = made.key
        name = self.plan.places.name(planned.spec.id, attempt=attempt)
        self.lineage.finish(STAGES, name, **known)
        self.cards.tell(planned.spec.id, self.attempts.output(planned, attempt))
        self._report()

    def _report(self) -> None:
        attempted("the pipeline's report", lambda: write_page(self.plan, self.lineage))

    def _take_as_it_is(self, planned: PlannedStage) -> None:
        """Use what an earlier command made of a stage that is not chosen, if it did."""
        for attempt in range(1, planned.attempts + 1):
            name = self.plan.places.name(planned.spec.id, attempt=attempt)
            record = self.lineage.record(STAGES, name)
            if record is None or "stands_for" not in record:
                continue
            key = record["stands_for"]
            if key == name:
                path = self.attempts.output(planned, attempt)
                self.made[planned.spec.id] = Made(key=key, path=path, digest=hash_tree(path))
            else:
                known = {each.key: each for each in self.made.values()}
                if key in known:
                    self.made[planned.spec.id] = known[key]

    def farewell(self) -> str:
        """Publish what the file says, and return what to tell the person."""
        spec = self.plan.spec
        lines = [f"report: {self.plan.places.report}", f"lineage: {self.plan.places.lineage}"]
        if spec.publish in self.made:
            made = self.made[spec.publish]
            path = self.cards.publish(spec.publish, made)
            self._report()
            return "\n".join([f"model: {path} ({_what(spec.publish, made)})", *lines])
        models = [each.spec.id for each in self.plan.stages if each.spec.output == "model"]
        last = next((name for name in reversed(models) if name in self.made), None)
        if last is not None:
            made = self.made[last]
            lines.insert(0, f"model: {made.path} ({_what(last, made)})")
        return "\n".join(lines)


def _what(stage: str, made: Made) -> str:
    return stage if made.key.partition(".")[0] == stage else f"{made.key}, in place of {stage}"


def _shown(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in changes.items())
