"""The options of every stage, of its retries and of the evaluations, composed beforehand.

Owns what an attempt changes. Refuses to own the words (overrides.py) and what a stage means by its
options. Invariant: options that a command would refuse are refused before any command is started.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlpost.config.compose import compose_stage
from rlpost.config.explain import COMPOSITION_ERRORS, explain
from rlpost.config.stage_yaml import flat
from rlpost.errors import UserError
from rlpost.evaluation.suites.catalog import SUITES
from rlpost.pipeline.gate import Measured
from rlpost.pipeline.spec import BASE, PipelineSpec, StageSpec, SuiteSpec
from rlpost.stages.pipeline.checks import KL_COEFFICIENT, require_source
from rlpost.stages.pipeline.config import PipelineConfig
from rlpost.stages.pipeline.overrides import (
    BUNDLED,
    group_name,
    is_plain_bundle,
    stage_words,
    suite_words,
)
from rlpost.stages.pipeline.places import Places

# Enough to have a reference that the divergence is measured against, and too little to act.
MEASURED_KL = 1e-9


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage whose options were composed."""

    spec: StageSpec
    changes: tuple[Mapping[str, Any], ...]  # of each attempt, over the stage's own options
    adapter: bool  # it trains an adapter, which is merged into its base afterwards

    @property
    def attempts(self) -> int:
        return len(self.changes)


def compose_suites(
    spec: PipelineSpec,
    groups: Sequence[Sequence[SuiteSpec]],
    *,
    cfg: PipelineConfig,
    common: Mapping[str, Mapping[str, Any]],
    file: Path,
) -> None:
    """Refuse suites that nobody judges, and options that an evaluation would refuse."""
    for suite in spec.suites.values():
        at = f"{file}: gates.suites.{suite.name}"
        require_source(suite.data, field=f"{at}.data")
        if not is_plain_bundle(suite) and suite.verifier is None:
            own = SUITES.get(suite.data.removeprefix(BUNDLED))
            hint = f"verifier={own.verifier}" if own else "verifier=KIND"
            raise UserError(f"{at}.verifier is missing, so nobody judges {suite.data}; give {hint}")
    for group in groups:
        words = suite_words(
            group,
            model=spec.base,
            run_dir=Path(cfg.run.dir),
            seed=cfg.seed,
            common=common["evaluate"],
        )
        _composed("evaluate", words, at=f"{file}: gates.suites ({group_name(group)})")


class Compositions:
    """Composes the options of stages, and those that differ in names alone once.

    A composition takes a third of a second, and long chains repeat a few stages. The words of two
    stages are alike if they are equal once each stage's name is replaced by the order in which the
    names appear in them; what is composed then differs in nothing that an attempt depends on.
    """

    def __init__(self, places: Places) -> None:
        self._name = re.compile(re.escape(str(places.stages)) + r"/(\w+)")
        self._known: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def __call__(self, command: str, words: Sequence[str], *, at: str) -> Mapping[str, Any]:
        """Return a stage's options as its own command would have them, but for names of stages.

        Raises:
            UserError: they cannot be composed; says where in the file they stand.
        """
        key = command, *self._anonymous(words)
        if key not in self._known:
            self._known[key] = _composed(command, words, at=at)
        return self._known[key]

    def _anonymous(self, words: Sequence[str]) -> list[str]:
        names: dict[str, int] = {}

        def numbered(found: re.Match[str]) -> str:
            return f"<{names.setdefault(found[1], len(names))}>"

        others = (word for word in words if not word.startswith("run.name="))
        return [self._name.sub(numbered, word) for word in others]


def plan_stage(
    stage: StageSpec,
    before: Mapping[str, PlannedStage],
    *,
    composed: Compositions,
    cfg: PipelineConfig,
    places: Places,
    base: str,
    common: Mapping[str, Mapping[str, Any]],
    file: Path,
) -> PlannedStage:
    """Compose a stage and its retries by ``composed``; ``before`` holds what it is made of."""
    at = f"{file}: {stage.id}"

    def resolve(name: str) -> Path:
        made = before[name]
        return places.output(made.spec, attempt=1, adapter=made.adapter)

    start = [base if name == BASE else str(resolve(name)) for name in stage.start]
    if stage.prune is not None:
        start = [str(places.pruned(stage.id))]
    compose = partial(
        stage_words,
        stage,
        start=start,
        resolve=resolve,
        run_dir=places.stages,
        name=stage.id,
        seed=cfg.seed,
        common=common[stage.run],
    )
    first = composed(stage.run, compose(changes={}), at=at)
    fixed: dict[str, Any] = {}
    if _measures_kl(stage) and not flat(first).get(KL_COEFFICIENT):
        fixed = {KL_COEFFICIENT: MEASURED_KL}
    changes = [fixed]
    for number in range(1, (stage.retry.times if stage.retry else 0) + 1):
        changes.append({**fixed, **_changed(stage, flat(first), times=number, at=f"{at}.retry")})
    for number, each in enumerate(changes):
        if each:  # else it is what was composed already
            composed(stage.run, compose(changes=each), at=f"{at}.retry.set" if number else at)
    adapter = first.get("adapter")
    return PlannedStage(
        spec=stage,
        changes=tuple(changes),
        adapter=isinstance(adapter, dict)
        and adapter.get("kind") != "none"
        and stage.output == "model",
    )


def _measures_kl(stage: StageSpec) -> bool:
    leaves = (leaf for gate in stage.gates for leaf in gate.leaves())
    return any(isinstance(leaf, Measured) and leaf.name == "kl_to_start" for leaf in leaves)


def _changed(stage: StageSpec, values: Mapping[str, Any], *, times: int, at: str) -> dict[str, Any]:
    """Return what an attempt sets; a factor is applied ``times`` times."""
    assert stage.retry is not None
    found: dict[str, Any] = {}
    for key, value in stage.retry.changes.items():
        if isinstance(value, str) and value.startswith("*"):
            before = values.get(key)
            if not isinstance(before, int | float) or isinstance(before, bool):
                raise UserError(
                    f"{at}.set.{key}: {value!r} multiplies a number, and it is {before!r} here; "
                    "give the value itself, or set the number in the stage's set"
                )
            result = before * float(value[1:]) ** times
            found[key] = max(1, round(result)) if isinstance(before, int) else result
        else:
            found[key] = value
    return found


def _composed(command: str, words: Sequence[str], *, at: str) -> dict[str, Any]:
    """Compose a stage's options as its own command would.

    Raises:
        UserError: they cannot be composed; says where in the file they stand.
    """
    try:
        _, resolved = compose_stage(words, stage=command)
    except UserError as error:
        raise UserError(f"{at} (rlpost {command}): {error}") from error
    except COMPOSITION_ERRORS as error:
        why = explain(error, stage=command)
        raise UserError(f"{at} (rlpost {command}): {why}") from error
    return resolved
