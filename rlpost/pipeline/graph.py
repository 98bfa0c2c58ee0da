"""The order of a pipeline's stages.

Owns the graph, its order and what a choice of stages needs. Refuses to own what stages do. Pure.
Invariant: a stage comes after everything that it, or one of its gates, is made of.
"""

import difflib
from collections.abc import Sequence

from rlpost.errors import UserError
from rlpost.pipeline.gate import Score
from rlpost.pipeline.spec import BASE, PipelineSpec, StageSpec


def needs(stage: StageSpec) -> set[str]:
    """Return the stages that must be done before this one, its gates' included."""
    made_of = {name for _, name in stage.references()}
    compared = {
        leaf.stage for gate in stage.gates for leaf in gate.leaves() if isinstance(leaf, Score)
    }
    return {name for name in made_of | compared if name not in (BASE, None, stage.id)} | (
        {stage.id} if stage.id in made_of else set()
    )


def ancestors(spec: PipelineSpec, name: str) -> set[str]:
    """Return the stages that a stage is made of, and what these are made of, and itself."""
    found: set[str] = set()
    waiting = {name}
    while waiting:
        found |= waiting
        below = {each for one in waiting for _, each in spec.stage(one).references()}
        waiting = below - found - {BASE}
    return found


def in_order(spec: PipelineSpec) -> list[StageSpec]:
    """Return the stages, each after what it needs, otherwise as they are written.

    Raises:
        UserError: stages wait for each other; names the circle.
    """
    waiting = {stage.id: needs(stage) for stage in spec.stages}
    done: list[str] = []
    while waiting:
        ready = next((name for name, below in waiting.items() if below <= set(done)), None)
        if ready is None:
            raise UserError(
                f"stages: {' -> '.join(_circle(waiting))} wait for each other; a stage can only "
                "be made of stages before it: change one from, teacher, data or gate"
            )
        del waiting[ready]
        done.append(ready)
    return [spec.stage(name) for name in done]


def _circle(waiting: dict[str, set[str]]) -> list[str]:
    path = [next(iter(waiting))]
    while path.count(path[-1]) < 2:
        path.append(sorted(waiting[path[-1]] & waiting.keys())[0])
    return path[path.index(path[-1]) :]


def chosen(
    stages: Sequence[StageSpec], *, only: Sequence[str], until: str | None
) -> list[StageSpec]:
    """Return the stages that are to be run: all, those of ``only``, or those up to ``until``.

    Raises:
        UserError: no stage has that name, or both are given.
    """
    if only and until is not None:
        raise UserError("only and until both choose stages; leave one out")
    names = [stage.id for stage in stages]
    for field, name in [("only", each) for each in only] + ([("until", until)] if until else []):
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(
                f"{field} must name stages of {', '.join(names)}, got {name!a:.60}{hint}"
            )
    if only:
        return [stage for stage in stages if stage.id in only]
    return list(stages if until is None else stages[: names.index(until) + 1])
