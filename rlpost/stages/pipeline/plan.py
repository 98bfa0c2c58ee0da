"""Everything a pipeline needs to know before its first stage starts.

Owns the order in which things are checked. Refuses to own the checks (checks.py) and composition
(composed.py). Invariant: everything that can be refused without the result of a stage is refused
here, before anything is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.config.options import known_keys
from rlpost.errors import UserError
from rlpost.models.locate import locate_model
from rlpost.pipeline.graph import chosen, in_order
from rlpost.pipeline.read import read_pipeline
from rlpost.pipeline.spec import PipelineSpec, SuiteSpec
from rlpost.stages.pipeline.checks import check_stage, require_layers
from rlpost.stages.pipeline.composed import (
    Compositions,
    PlannedStage,
    compose_suites,
    plan_stage,
)
from rlpost.stages.pipeline.config import PipelineConfig
from rlpost.stages.pipeline.file import existing_file
from rlpost.stages.pipeline.overrides import Resolve, groups_of, stage_words
from rlpost.stages.pipeline.places import Places
from rlpost.stages.registry import STAGES
from rlpost.stages.run_directory import RunDirectory


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
    file = existing_file(cfg.pipeline.path)
    commands = {name: stage.makes for name, stage in STAGES.items()}
    spec = read_pipeline(file, commands=commands)
    ordered = in_order(spec)
    run = chosen(ordered, only=cfg.only, until=cfg.until)
    common = _common(spec, cluster=cfg.cluster.address)
    base = locate_model(spec.base, field=f"{file}: base.path")
    for stage in ordered:
        check_stage(spec, stage, file)
        require_layers(spec, stage, base=base, file=file)
    if spec.publish is not None and spec.stage(spec.publish).output == "dataset":
        raise UserError(
            f"{file}: publish.from: {spec.publish} makes a dataset, and a model is needed; its "
            f"rows are in {places.run(spec.publish).dataset}"
        )
    groups = tuple(map(tuple, groups_of(list(spec.suites.values()))))
    compose_suites(spec, groups, cfg=cfg, common=common, file=file)
    planned: dict[str, PlannedStage] = {}
    composed = Compositions(places)
    for stage in ordered:
        planned[stage.id] = plan_stage(
            stage,
            planned,
            composed=composed,
            cfg=cfg,
            places=places,
            base=spec.base,
            common=common,
            file=file,
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
