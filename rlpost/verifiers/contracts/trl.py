"""TRL: ``f(prompts, completions, completion_ids, **columns) -> list[float | None]``.

Called with keywords, with all responses of a group. A function without ``**kwargs`` gets the
names it lists. Completions are strings, or ``[{"role": "assistant", "content": ...}]`` when
prompts are messages; every column is a list. ``None`` abstains. A function that names the
parameters ``log_extra`` or ``log_metric`` gets functions ``(column, values)`` and
``(name, value)`` that add to the information of its verdicts. Absent on purpose:
``trainer_state`` and ``environments``, which a worker process does not have.
"""

from collections.abc import Sequence
from typing import Any

from rlpost.errors import DataError, UserError
from rlpost.verifiers.base import Declaration, GroupCall, Sample, Score
from rlpost.verifiers.contracts.adapter import Adapter, UserFunction
from rlpost.verifiers.contracts.returned import rewards_of, scored

_ALWAYS = ("prompts", "completions", "completion_ids")
_LOGGING = ("log_extra", "log_metric")
_NEVER = ("trainer_state", "environments")


def _declare(function: UserFunction) -> Declaration:
    columns = function.signature.required.difference(_ALWAYS, _LOGGING)
    return Declaration(groups=True, columns=tuple(sorted(columns)))


def _bind(function: UserFunction) -> GroupCall:
    signature, path = function.signature, function.path
    signature.require_keywords(path=path)
    if not signature.variadic and not signature.keywords.intersection(_ALWAYS):
        raise UserError(
            f"path: {path} accepts none of {list(_ALWAYS)}; write it as "
            "f(prompts, completions, **kwargs) -> list[float | None]"
        )
    impossible = sorted(signature.required.intersection(_NEVER))
    if impossible:
        raise UserError(
            f"path: {path} needs {impossible}, which only TRL's own trainer has; give it a "
            "default value and do without"
        )

    def judge(samples: Sequence[Sample]) -> list[Score | Exception]:
        log = _Log(len(samples))
        arguments = _columns(samples) | {
            "prompts": [sample.prompt for sample in samples],
            "completions": [sample.completion for sample in samples],
            "completion_ids": [list(sample.completion_ids) for sample in samples],
            **{name: log.calls[name] for name in signature.keywords.intersection(log.calls)},
        }
        missing = signature.required - arguments.keys()
        if missing:
            at = f"{samples[0].address}: " if samples[0].address else ""
            raise DataError(
                f"{at}{path} needs the columns {sorted(missing)}, the row has "
                f"{sorted(samples[0].columns)}"
            )
        returned = function.call(**signature.accepted(arguments))
        rewards = rewards_of(returned, num=len(samples))
        return [scored(*each) for each in zip(rewards, log.infos, strict=True)]

    return judge


def _columns(samples: Sequence[Sample]) -> dict[str, Any]:
    return {name: [each.columns.get(name) for each in samples] for name in samples[0].columns}


class _Log:
    """What a function logs during one call, as information about each response."""

    def __init__(self, num: int) -> None:
        self.infos: list[dict[str, Any]] = [{} for _ in range(num)]
        self.calls = dict(zip(_LOGGING, (self._extra, self._metric), strict=True))

    def _extra(self, column: str, values: Any) -> None:
        listed = list(values)
        if len(listed) != len(self.infos):
            raise ValueError(
                f"log_extra({column!r}, values) takes one value per completion: got {len(listed)} "
                f"for {len(self.infos)}"
            )
        for info, value in zip(self.infos, listed, strict=True):
            info[column] = value

    def _metric(self, name: str, value: Any) -> None:
        for info in self.infos:
            info[name] = value


TRL = Adapter(
    title="TRL",
    spelling="f(prompts, completions, **columns) -> list of numbers",
    marks=frozenset({"completions", "completion_ids"}),
    declare=_declare,
    bind=_bind,
)
