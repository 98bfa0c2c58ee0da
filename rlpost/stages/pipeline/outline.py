"""What ``rlpost plan pipeline`` says: the chain in order, what each stage takes, and its gates.

Owns the words, and the stand-in for a model that does not exist yet: the one that it is made from,
which has the same shape. Refuses to own a stage's estimate. Invariant: nothing is written, and no
stage is started.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.checkpoint.space import format_bytes
from rlpost.config.compose import compose_stage
from rlpost.doctor import machine
from rlpost.errors import UserError
from rlpost.models.footprint import together_bytes
from rlpost.models.locate import parameter_count
from rlpost.pipeline.spec import BASE, STAGE_PREFIX, StageSpec, strings_of
from rlpost.stages.pipeline.composed import PlannedStage
from rlpost.stages.pipeline.config import PipelineConfig
from rlpost.stages.pipeline.overrides import suite_words
from rlpost.stages.pipeline.plan import PipelinePlan, prepare
from rlpost.stages.registry import STAGES
from rlpost.stages.run_directory import RunDirectory

# Of a step that trains: forward and backward 6 a parameter and token, and as many again for
# recomputed activations, sampling and references, roughly.
_FLOPS_PER_TOKEN = 12
_SHARE_OF_PEAK = 0.3  # of what a product of large matrices reaches
_START_S = 40.0  # of Ray, engines and ranks


@dataclass(frozen=True, kw_only=True)
class _Need:
    """What one command takes, at most."""

    memory_bytes: float
    sentences: Sequence[str]
    tokens: int
    parameters: int


def outline(cfg: PipelineConfig) -> str:
    """Return what a person wants to know before a pipeline starts.

    Raises:
        UserError, DataError: it would be refused.
    """
    plan = prepare(cfg, directory=RunDirectory.of(cfg.run))
    rate = _flops_per_s()
    lines = [f"{plan.spec.name}: {len(plan.stages)} stages from {plan.spec.base}"]
    needs = [("suites of each model", need) for need in _suites(plan)]
    for number, planned in enumerate(plan.stages, start=1):
        need = _stage(plan, planned)
        skipped = "" if planned.spec.id in plan.chosen else " (not chosen)"
        lines.append(f"{number}. {_words(planned.spec)}{skipped}")
        lines += [f"   {each}" for each in _gates(plan, planned)]
        lines.append(f"   {_said(need, rate)}")
        if need is not None:
            needs.append((planned.spec.id, need))
    for _, need in needs[: len(plan.groups)]:
        lines.append(f"suites, of every model: {_said(need, rate)}")
    known = [need for _, need in needs if need is not None]
    room = machine.memory().total_bytes
    peak = max((need.memory_bytes for need in known), default=0.0)
    lines.append(
        f"At most {format_bytes(int(peak))} of memory at a time, of {format_bytes(int(room))}; "
        "stages run one after the other."
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


def _said(need: _Need | None, rate: float) -> str:
    if need is None:
        return "its needs are known once the stages before it made its data"
    seconds = _START_S + _FLOPS_PER_TOKEN * need.tokens * need.parameters / rate
    return " ".join(
        [
            f"{format_bytes(int(need.memory_bytes))} of memory, roughly {seconds / 60:.0f} min at "
            "most here.",
            *need.sentences,
        ]
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
    return _need(spec.run, words, start[0], at=f"{plan.file}: {spec.id}")


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
            plan.base,
            at=f"{plan.file}: gates.suites",
        )
        for group in plan.groups
    ]


def _need(command: str, words: Sequence[str], model: str, *, at: str) -> _Need:
    """Prepare a command as it would itself, and add up what it takes."""
    try:
        cfg, _ = compose_stage(words, stage=command)
        prepared: Any = STAGES[command].part("plan")(cfg, directory=RunDirectory.of(cfg.run))
        estimate = STAGES[command].part("estimate")(prepared, gpu_bytes=None)
    except UserError as error:
        raise UserError(f"{at} (rlpost {command}): {error}") from error
    return _Need(
        memory_bytes=together_bytes([*estimate.footprints, *estimate.unplaced]),
        sentences=[each for each in estimate.sentences if "disk" in each],
        tokens=estimate.tokens,
        parameters=parameter_count(model),
    )


def _ancestor(plan: PipelinePlan, name: str) -> Path:
    """Return an existing model of the shape that a stage's model will have, at most."""
    while name != BASE:
        name = plan.planned(name).spec.start[0]
    return Path(plan.base)


def _flops_per_s() -> float:
    """Return what this machine's processors sustain in training, roughly."""
    import torch

    size = 1024
    a = torch.ones(size, size)
    a @ a
    begin = time.perf_counter()
    rounds = 4
    for _ in range(rounds):
        a @ a
    return _SHARE_OF_PEAK * rounds * 2 * size**3 / (time.perf_counter() - begin)
