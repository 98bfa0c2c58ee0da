"""Everything a pipeline needs to know before its first stage starts.

Owns the composition of every stage, of its retries and of the evaluations, and the checks of files.
Refuses to own what a stage means by its options. Invariant: everything that can be refused without
the result of a stage is refused here, before anything is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlpost.config.compose import compose_stage
from rlpost.config.explain import COMPOSITION_ERRORS, explain
from rlpost.config.options import known_keys
from rlpost.config.search_path import config_dir
from rlpost.config.stage_yaml import flat
from rlpost.data.sources.load import find_source
from rlpost.errors import UserError
from rlpost.evaluation.suites.catalog import SUITES, find_suite
from rlpost.models.locate import locate_model
from rlpost.pipeline.gate import Delta, Gate, Measured
from rlpost.pipeline.graph import chosen, in_order
from rlpost.pipeline.read import read_name, read_pipeline
from rlpost.pipeline.spec import (
    BASE,
    STAGE_PREFIX,
    OnFail,
    PipelineSpec,
    StageSpec,
    SuiteSpec,
    strings_of,
)
from rlpost.stages.pipeline.config import PipelineConfig
from rlpost.stages.pipeline.overrides import (
    BUNDLED,
    Resolve,
    group_name,
    groups_of,
    is_plain_bundle,
    stage_words,
    suite_words,
)
from rlpost.stages.pipeline.places import Places
from rlpost.stages.registry import STAGES
from rlpost.stages.run_directory import RunDirectory

# Enough to have a reference that the divergence is measured against, and too little to act.
MEASURED_KL = 1e-9
_KL = "algorithm.kl.coefficient"


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage whose options were composed."""

    spec: StageSpec
    changes: tuple[Mapping[str, Any], ...]  # of each attempt, over the stage's own options
    adapter: bool  # it trains an adapter, which is merged into its base afterwards

    @property
    def attempts(self) -> int:
        return len(self.changes)


@dataclass(frozen=True, kw_only=True)
class PipelinePlan:
    """A pipeline that passed every check; nothing was written or started yet."""

    cfg: PipelineConfig
    file: Path
    spec: PipelineSpec
    places: Places
    base: str  # directory of the model that it starts from
    stages: tuple[PlannedStage, ...]  # in order
    chosen: frozenset[str]  # ids of those that are to be run
    groups: tuple[tuple[SuiteSpec, ...], ...]  # suites that are scored together
    common: Mapping[str, Mapping[str, Any]]  # command -> options of all its stages

    def planned(self, name: str) -> PlannedStage:
        """Return the stage of this id."""
        return next(each for each in self.stages if each.spec.id == name)

    def words(
        self, stage: PlannedStage, *, attempt: int, start: Sequence[str], resolve: Resolve
    ) -> list[str]:
        """Return the overrides of one attempt; see ``stage_words``."""
        return stage_words(
            stage.spec,
            start=start,
            resolve=resolve,
            run_dir=self.places.stages,
            name=self.places.name(stage.spec.id, attempt=attempt),
            seed=self.cfg.seed,
            common=self.common[stage.spec.run],
            changes=stage.changes[attempt - 1],
        )


def name_of(composed: DictConfig) -> str:
    """Return the name of a pipeline's run that is given none: that in its file."""
    path = OmegaConf.select(composed, "pipeline.path")
    name = read_name(find_file(str(path))) if path else None
    return name or "pipeline"


def find_file(path: str) -> Path:
    """Return the file that ``pipeline.path`` names: there, or shipped under that name."""
    shipped = config_dir() / "pipeline" / f"{path}.yaml"
    local = Path(path).expanduser()
    return shipped if not local.exists() and "/" not in path and shipped.is_file() else local


def prepare(cfg: PipelineConfig, *, directory: RunDirectory) -> PipelinePlan:
    """Check everything that can be checked before anything is written.

    Raises:
        UserError, DataError: something the user can fix.
    """
    directory.refuse_strangers()
    places = Places(root=directory.root)
    if cfg.resume == "never" and places.lineage.exists():
        raise UserError(
            f"resume=never, but {directory.root} already holds a pipeline; choose another "
            "run.name, or move that directory away"
        )
    assert cfg.pipeline.path is not None
    file = _existing(cfg.pipeline.path)
    commands = {name: stage.makes for name, stage in STAGES.items()}
    spec = read_pipeline(file, commands=commands)
    ordered = in_order(spec)
    run = chosen(ordered, only=cfg.only, until=cfg.until)
    common = _common(spec, cluster=cfg.cluster.address)
    base = locate_model(spec.base, field=f"{file}: base.path")
    for stage in ordered:
        _check_stage(spec, stage, file)
    groups = tuple(map(tuple, groups_of(list(spec.suites.values()))))
    _compose_suites(spec, groups, cfg=cfg, common=common, file=file)
    planned: dict[str, PlannedStage] = {}
    for stage in ordered:
        planned[stage.id] = _planned(
            stage, planned, cfg=cfg, places=places, base=spec.base, common=common, file=file
        )
    return PipelinePlan(
        cfg=cfg,
        file=file,
        spec=spec,
        places=places,
        base=base,
        stages=tuple(planned.values()),
        chosen=frozenset(stage.id for stage in run),
        groups=groups,
        common=common,
    )


def _existing(path: str) -> Path:
    file = find_file(path)
    if not file.is_file():
        shipped = sorted(each.stem for each in (config_dir() / "pipeline").glob("*.yaml"))
        raise UserError(
            f"pipeline.path: {path!a:.200} does not exist; give a file, or one of "
            f"{', '.join(shipped)}, which are shipped"
        )
    return file


def _common(spec: PipelineSpec, *, cluster: str | None) -> dict[str, dict[str, Any]]:
    """Return the options that all stages of a command have, the cluster's address included."""
    commands = {"evaluate", *(stage.run for stage in spec.stages)}
    joined = {} if cluster is None else {"cluster.address": cluster}
    return {
        each: {
            **(joined if "cluster.address" in known_keys(each) else {}),
            **spec.common.get(each, {}),
        }
        for each in commands
    }


def _check_stage(spec: PipelineSpec, stage: StageSpec, file: Path) -> None:
    """Refuse what does not fit together, and sources that do not exist."""
    at = f"{file}: {stage.id}"
    for place, name in stage.references():
        if name == BASE:
            continue
        made = spec.stage(name).output
        wanted = {"data": "dataset", "from": "model", "from.prune.of": "model"}.get(place)
        if wanted is not None and made != wanted:
            raise UserError(
                f"{at}.{place}: {name} makes a {made}, and a {wanted} is needed; name another stage"
            )
    for gate in stage.gates:
        _check_gate(gate, stage, at=f"{at}.gate")
    if stage.on_fail is OnFail.rollback and not can_roll_back(stage):
        raise UserError(
            f"{at}.on_fail=rollback: nothing can take the place of what {stage.id} makes, because "
            "it does not turn one model into another; use stop or warn"
        )
    for name in strings_of({key: stage.data[key] for key in _SOURCES if key in stage.data}):
        if not name.startswith(STAGE_PREFIX):
            _require_source(name, field=f"{at}.data")


_SOURCES = ("train", "heldout", "replay")


def can_roll_back(stage: StageSpec) -> bool:
    """Whether the model that a stage starts from can take the place of what it makes."""
    return stage.output == "model" and len(stage.start) == 1


def _check_gate(gate: Gate, stage: StageSpec, *, at: str) -> None:
    scored = stage.output == "model"
    for each in gate.leaves():
        if isinstance(each, Measured):
            _check_measured(each.name, stage, at=f"{at}: {gate.text}")
        own = isinstance(each, Delta) or getattr(each, "stage", "") is None
        if own and not scored:
            raise UserError(
                f"{at}: {gate.text}: {stage.id} makes a {stage.output}, which is not scored; "
                "compare stages that make a model, as in score(SUITE, STAGE)"
            )
        if isinstance(each, Delta) and len(stage.start) > 1:
            raise UserError(
                f"{at}: {gate.text}: {stage.id} starts from several models, so delta is of none; "
                f"write score({each.suite}) - score({each.suite}, {stage.start[0]})"
            )


def _check_measured(name: str, stage: StageSpec, *, at: str) -> None:
    if name == "kl_to_start":
        if _KL not in known_keys(stage.run):
            raise UserError(f"{at}: rlpost {stage.run} measures no kl_to_start; rl and rft do")
    elif stage.output != "dataset":
        raise UserError(
            f"{at}: {name} is of a data set, and {stage.id} makes a {stage.output}; put the gate "
            "at the stage that makes the data"
        )


def _require_source(name: str, *, field: str) -> None:
    if name.startswith(BUNDLED):
        find_suite(name.removeprefix(BUNDLED), field=f"{field}: {BUNDLED}NAME")
        return
    source, locator = find_source(name, field=field)
    if source.scheme == "file" and not Path(locator).expanduser().exists():
        raise UserError(
            f"{field}: {name!a:.200} does not exist; paths are relative to the working directory"
        )


def _compose_suites(
    spec: PipelineSpec,
    groups: Sequence[Sequence[SuiteSpec]],
    *,
    cfg: PipelineConfig,
    common: Mapping[str, Mapping[str, Any]],
    file: Path,
) -> None:
    for suite in spec.suites.values():
        at = f"{file}: gates.suites.{suite.name}"
        _require_source(suite.data, field=f"{at}.data")
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


def _planned(
    stage: StageSpec,
    before: Mapping[str, PlannedStage],
    *,
    cfg: PipelineConfig,
    places: Places,
    base: str,
    common: Mapping[str, Mapping[str, Any]],
    file: Path,
) -> PlannedStage:
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
    first = _composed(stage.run, compose(changes={}), at=at)
    fixed: dict[str, Any] = {}
    if _measures_kl(stage) and not flat(first).get(_KL):
        fixed = {_KL: MEASURED_KL}
    changes = [fixed]
    for number in range(1, (stage.retry.times if stage.retry else 0) + 1):
        changes.append({**fixed, **_changed(stage, flat(first), times=number, at=f"{at}.retry")})
    for number, each in enumerate(changes):
        if each:  # else it is what was composed already
            _composed(stage.run, compose(changes=each), at=f"{at}.retry.set" if number else at)
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
