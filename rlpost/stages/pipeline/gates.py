"""The scores of what a pipeline makes, and the gates that it must pass.

Owns which models are scored for a gate, and the record of every decision. Refuses to own what a
failing gate does (drive.py) and how a gate is decided (pipeline/decide.py). Invariant: a model is
scored once on each suite, whatever asks for it.
"""

import json
from collections.abc import Mapping
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.errors import UserError
from rlpost.evaluation.comparison import aligned
from rlpost.pipeline.decide import Decision, GateVerdict, decide
from rlpost.pipeline.gate import Delta, Gate, Score
from rlpost.stages.pipeline.chain import Chain
from rlpost.stages.pipeline.composed import PlannedStage
from rlpost.stages.pipeline.lineage import SCORES, STAGES, recipe_of
from rlpost.stages.pipeline.made import Made
from rlpost.stages.pipeline.measured import measured_of
from rlpost.stages.pipeline.overrides import group_name, suite_words
from rlpost.stages.pipeline.scores import values_of
from rlpost.stages.pipeline.sources import hash_sources
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.boundary import own_record

_START = "from"  # no id: it is a word of Python


class Gates:
    """Scores and decisions of one pipeline."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._decisions: list[dict[str, Any]] = []

    def score(self, made: Made) -> None:
        """Score a model on every suite, unless that is done."""
        for group in self._chain.plan.groups:
            run = RunDirectory(root=self._chain.plan.places.scores(made.key) / group_name(group))
            words = suite_words(
                group,
                model=made.name,
                run_dir=run.root.parent,
                seed=self._chain.plan.cfg.seed,
                common=self._chain.plan.common["evaluate"],
            )
            inputs = {f"model {made.key}": made.digest}
            inputs |= hash_sources(suite.data for suite in group)
            recipe = recipe_of("evaluate", words, inputs=inputs, root=self._chain.plan.places.root)
            name = f"{made.key}/{run.root.name}"
            self._chain.lineage.forget_moved(SCORES, name)
            aside = self._chain.lineage.set_aside_stale(name, recipe)
            if aside is not None:
                self._chain.commands.say(f"{aside} holds the scores of what {made.key} was before")
            if self._chain.lineage.is_done(SCORES, name, recipe):
                continue
            self._chain.commands.say(
                f"{made.key}: scoring {', '.join(each.name for each in group)}"
            )
            self._chain.lineage.begin(SCORES, name, recipe)
            self._chain.commands.run("evaluate", words, run, what=f"the scores of {made.key}")
            self._chain.lineage.finish(SCORES, name)

    def judge(
        self, planned: PlannedStage, made: Made, start: Made, *, attempt: int
    ) -> list[Decision]:
        """Score what a stage made and decide its gates; return those that failed."""
        spec = planned.spec
        if self._chain.plan.groups and spec.output == "model":
            self.score(made)
        measured = measured_of(self._chain.plan, planned, attempt=attempt, path=made.path)
        decisions = [self._decide(gate, planned, made, start, measured) for gate in spec.gates]
        for each in decisions:
            self._chain.commands.say(f"{spec.id}: gate {each}")
            if each.verdict is GateVerdict.undecided:
                self._chain.commands.warn(
                    f"{spec.id}: too few items to decide {each.gate!r}; it goes on"
                )
        name = self._chain.plan.places.name(spec.id, attempt=attempt)
        rows = [
            {
                "stage": spec.id,
                "attempt": attempt,
                "gate": each.gate,
                "left": each.left,
                "right": each.right,
                "low": each.low,
                "high": each.high,
                "verdict": each.verdict.value,
            }
            for each in decisions
        ]
        self._decisions += rows
        lines = "".join(f"{json.dumps(row)}\n" for row in self._decisions)
        with own_record(self._chain.plan.places.gates):
            write_text(self._chain.plan.places.gates, lines)
        self._chain.lineage.finish(STAGES, name, gates=rows, measured=measured)
        return [each for each in decisions if each.verdict is GateVerdict.failed]

    def _decide(
        self,
        gate: Gate,
        planned: PlannedStage,
        made: Made,
        start: Made,
        measured: Mapping[str, float],
    ) -> Decision:
        own = planned.spec.id
        models = {own: made, _START: start}
        for each in gate.leaves():
            if isinstance(each, Score) and each.stage not in (None, own):
                models[str(each.stage)] = self._done(str(each.stage), gate)
        scores = {}
        for suite in gate.suites():
            named = _named(gate, suite, own)
            for name in named:
                self.score(models[name])
            values = {
                name: values_of(
                    self._chain.plan.places, models[name].key, self._chain.plan.spec.suites[suite],
                    self._chain.plan.groups,
                )
                for name in named
            }  # fmt: skip
            size = len(next((v for each in values.values() for v in each.values()), [None]))
            for name, items in aligned(values, samples=size).items():
                scores[suite, name] = items
        return decide(
            gate,
            own=own,
            start=_START,
            scores=scores,
            measured=measured,
            confidence=self._chain.plan.spec.confidence,
            seed=self._chain.plan.cfg.seed,
        )

    def _done(self, name: str, gate: Gate) -> Made:
        if name not in self._chain.made:
            raise UserError(f"only: the gate {gate.text!r} compares {name}, which is not done")
        return self._chain.made[name]


def _named(gate: Gate, suite: str, own: str) -> set[str]:
    """Return the models whose scores of a suite a gate compares."""
    found: set[str] = set()
    for each in gate.leaves():
        if isinstance(each, Delta) and each.suite == suite:
            found |= {own, _START}
        elif isinstance(each, Score) and each.suite == suite:
            found.add(each.stage or own)
    return found
