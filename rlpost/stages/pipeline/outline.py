"""What ``rlpost plan pipeline`` says: the chain in order, what each stage takes, and its gates.

Owns the words, and the stand-in for a model that does not exist yet: the one that it is made from,
which has the same shape. Refuses to own a stage's estimate and its ``timing``. Invariant: nothing
is written, and no stage is started.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.checkpoint.space import format_bytes
from rlpost.cluster.session import Device
from rlpost.config.compose import compose_stage
from rlpost.control.placement import Node, assign_slots
from rlpost.doctor import machine
from rlpost.errors import UserError
from rlpost.models.footprint import together_bytes
from rlpost.pipeline.spec import BASE, STAGE_PREFIX, StageSpec, strings_of
from rlpost.roofline.devices import device_named
from rlpost.stages.pipeline.composed import PlannedStage
from rlpost.stages.pipeline.config import PipelineConfig
from rlpost.stages.pipeline.overrides import suite_words
from rlpost.stages.pipeline.plan import PipelinePlan, prepare
from rlpost.stages.registry import STAGES
from rlpost.stages.roles import actors_of
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.step_time import PlannedOn

_START_S = 40.0  # of Ray, engines and ranks


@dataclass(frozen=True, kw_only=True)
class _Need:
    """What one command takes, at most."""

    memory_bytes: float
    sentences: Sequence[str]
    seconds: float | None  # None: not known


def outline(cfg: PipelineConfig) -> str:
    """Return what a person wants to know before a pipeline starts.

    Raises:
        UserError, DataError: it would be refused.
    """
    plan = prepare(cfg, directory=RunDirectory.of(cfg.run))
    lines = [f"{plan.spec.name}: {len(plan.stages)} stages from {plan.spec.base}"]
    needs = [("suites of each model", need) for need in _suites(plan)]
    for number, planned in enumerate(plan.stages, start=1):
        need = _stage(plan, planned)
        skipped = "" if planned.spec.id in plan.chosen else " (not chosen)"
        lines.append(f"{number}. {_words(planned.spec)}{skipped}")
        lines += [f"   {each}" for each in _gates(plan, planned)]
        lines.append(f"   {_said(need, run=planned.spec.run)}")
        if need is not None:
            needs.append((planned.spec.id, need))
    for _, need in needs[: len(plan.groups)]:
        lines.append(f"suites, of every model: {_said(need, run='evaluate')}")
    known = [need for _, need in needs if need is not None]
    room = machine.memory().total_bytes
    peak = max((need.memory_bytes for need in known), default=0.0)
    lines.append(
        f"At most {format_bytes(int(peak))} of memory at a time, of {format_bytes(int(room))}; "
        "stages run one after the other. Times are for responses as long as they may be, without "
        "what lies between steps."
    )
    if peak > room:
        raise UserError("\n".join([*lines, "It would not fit; see `rlpost plan STAGE`"]))
    return "\n".join(lines)


def _words(spec: StageSpec) -> str:
    start = " and ".join(spec.start)
    if spec.prune is not None:
        start = f"{spec.prune.layers} layers of {start}"
    teacher = f", taught by {spec.teacher}" if spec.teacher else ""
    return f"{spec.id}: rlpost {spec.run} from {start}{teacher}, makes a {spec.output}"


def _gates(plan: PipelinePlan, planned: PlannedStage) -> list[str]:
    spec = planned.spec
    if not spec.gates:
        return []
    policy = plan.spec.on_fail_of(spec).value
    tries = f", after {planned.attempts} attempts" if planned.attempts > 1 else ""
    return [f"gate {gate.text}; if it fails: {policy}{tries}" for gate in spec.gates]


def _said(need: _Need | None, *, run: str) -> str:
    if STAGES[run].estimate is None:
        return f"what rlpost {run} takes is not estimated"
    if need is None:
        return "its needs are known once the stages before it made its data"
    if need.seconds is None:
        lasts = "how long it takes here is not known"
    else:
        lasts = f"about {(_START_S + need.seconds) / 60:.0f} min here"
    return " ".join(
        [f"{format_bytes(int(need.memory_bytes))} of memory, {lasts}.", *need.sentences]
    )


def _stage(plan: PipelinePlan, planned: PlannedStage) -> _Need | None:
    """Return what a stage takes; None: it reads what another stage has yet to make."""
    spec = planned.spec
    if any(text.startswith(STAGE_PREFIX) for text in strings_of([spec.data, spec.options])):
        return None
    if STAGES[spec.run].estimate is None:
        return None
    start = [str(_ancestor(plan, name)) for name in spec.start]
    words = plan.words(planned, attempt=1, start=start, resolve=lambda name: _ancestor(plan, name))
    return _need(spec.run, words, at=f"{plan.file}: {spec.id}")


def _suites(plan: PipelinePlan) -> list[_Need]:
    return [
        _need(
            "evaluate",
            suite_words(
                group,
                model=plan.base,
                run_dir=plan.places.scores(BASE),
                seed=plan.cfg.seed,
                common=plan.common["evaluate"],
            ),
            at=f"{plan.file}: gates.suites",
        )
        for group in plan.groups
    ]


def _need(command: str, words: Sequence[str], *, at: str) -> _Need:
    """Prepare a command as it would itself, and add up what it takes."""
    try:
        cfg, _ = compose_stage(words, stage=command)
        prepared: Any = STAGES[command].part("plan")(cfg, directory=RunDirectory.of(cfg.run))
        estimate = STAGES[command].part("estimate")(prepared, gpu_bytes=None)
        seconds = _seconds(command, prepared)
    except UserError as error:
        raise UserError(f"{at} (rlpost {command}): {error}") from error
    return _Need(
        memory_bytes=together_bytes([*estimate.footprints, *estimate.unplaced]),
        sentences=[each for each in estimate.sentences if "disk" in each],
        seconds=seconds,
    )


def _seconds(command: str, prepared: Any) -> float | None:
    """Return how long a run takes on this machine by the roofline; None: not known.

    Raises:
        UserError: an engine cannot hold its model and one sequence.
    """
    gpus, cores = machine.gpus()[0], machine.cores()
    on_gpu = prepared.device is Device.cuda
    gpu = device_named(gpus[0].name) if on_gpu and gpus else None
    elsewhere = prepared.cfg.cluster.address is not None or (on_gpu and gpu is None)
    if elsewhere or STAGES[command].timing is None:
        return None
    here = Node(id="here", name="here", cpus=cores, gpus=len(gpus))
    on = PlannedOn(
        slots=assign_slots(
            actors_of(prepared.roles), [here], placement=prepared.cfg.cluster.placement
        ),
        gpu=gpu,
        cores=cores,
        features=machine.cpu_features(),
    )
    times = STAGES[command].part("timing")(prepared, on, mean_response=None)
    return None if times is None else times.run_s


def _ancestor(plan: PipelinePlan, name: str) -> Path:
    """Return an existing model of the shape that a stage's model will have, at most."""
    while name != BASE:
        name = plan.planned(name).spec.start[0]
    return Path(plan.base)
