"""What is refused of a stage before its options are composed.

Owns whether stages fit together, whether gates ask for what exists, and whether sources exist.
Refuses to own the rules of the file itself (pipeline/read.py) and options (composed.py).
"""

from pathlib import Path

from rlpost.config.options import known_keys
from rlpost.data.sources.load import find_source
from rlpost.errors import UserError
from rlpost.evaluation.suites.catalog import find_suite
from rlpost.pipeline.gate import Delta, Gate, Measured
from rlpost.pipeline.spec import BASE, STAGE_PREFIX, OnFail, PipelineSpec, StageSpec, strings_of
from rlpost.stages.pipeline.overrides import BUNDLED

KL_COEFFICIENT = "algorithm.kl.coefficient"  # of a command that can measure a divergence
_SOURCES = ("train", "heldout", "replay")


def check_stage(spec: PipelineSpec, stage: StageSpec, file: Path) -> None:
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
        _check_gate(gate, stage, at=f"{at}.gate", has_suites=bool(spec.suites))
    if stage.on_fail is OnFail.rollback and not can_roll_back(stage):
        raise UserError(
            f"{at}.on_fail=rollback: nothing can take the place of what {stage.id} makes, because "
            "it does not turn one model into another; use stop or warn"
        )
    for name in strings_of({key: stage.data[key] for key in _SOURCES if key in stage.data}):
        if not name.startswith(STAGE_PREFIX):
            require_source(name, field=f"{at}.data")


def require_layers(spec: PipelineSpec, stage: StageSpec, *, base: str, file: Path) -> None:
    """Raises UserError: a start shall have as many layers as what it is a copy of, or more."""
    if stage.prune is None:
        return
    from rlpost.merging.prune_layers import require_prunable

    field, name = f"{file}: {stage.id}.from.prune.layers", stage.prune.of
    while name != BASE:
        above = spec.stage(name)
        if above.prune is not None and stage.prune.layers >= above.prune.layers:
            raise UserError(
                f"{field} must be below the {above.prune.layers} layers of {stage.prune.of}, got "
                f"{stage.prune.layers}"
            )
        name = above.start[0]
    require_prunable(Path(base), layers=stage.prune.layers, field=field)


def can_roll_back(stage: StageSpec) -> bool:
    """Whether the model that a stage starts from can take the place of what it makes."""
    return stage.output == "model" and len(stage.start) == 1


def _check_gate(gate: Gate, stage: StageSpec, *, at: str, has_suites: bool) -> None:
    scored = stage.output == "model"
    for each in gate.leaves():
        if isinstance(each, Measured):
            _check_measured(each.name, stage, at=f"{at}: {gate.text}", has_suites=has_suites)
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


def _check_measured(name: str, stage: StageSpec, *, at: str, has_suites: bool) -> None:
    if name == "kl_to_start":
        if KL_COEFFICIENT not in known_keys(stage.run):
            raise UserError(f"{at}: rlpost {stage.run} measures no kl_to_start; rl and rft do")
    elif stage.output != "dataset":
        raise UserError(
            f"{at}: {name} is of a data set, and {stage.id} makes a {stage.output}; put the gate "
            "at the stage that makes the data"
        )
    elif name == "leaked_into_heldout" and not has_suites:
        raise UserError(
            f"{at}: {name} compares with the prompts of gates.suites, of which there are none, so "
            "it is always 0; name the held-out rows as a suite, or leave the gate out"
        )


def require_source(name: str, *, field: str) -> None:
    """Raises UserError: a source of rows does not exist."""
    if name.startswith(BUNDLED):
        find_suite(name.removeprefix(BUNDLED), field=f"{field}: {BUNDLED}NAME")
        return
    source, locator = find_source(name, field=field)
    if source.scheme == "file" and not Path(locator).expanduser().exists():
        raise UserError(
            f"{field}: {name!a:.200} does not exist; paths are relative to the working directory"
        )
