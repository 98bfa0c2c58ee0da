"""verl: ``compute_score(data_source, solution_str, ground_truth, extra_info=None)``.

Called with keywords, once per response; returns a number, or a dict whose ``score`` is the
reward and whose other keys are information. Where the parameters are plural
(``solution_strs``, ..., verl's batch reward manager) one call gets all responses of a group
and returns a list of these.

Rows come as verl writes them: ``data_source``, ``reward_model.ground_truth`` and
``extra_info``. For other rows ``data_source`` is the file or source that the row is from,
``ground_truth`` its column ``ground_truth`` or ``answer``, and ``extra_info`` is empty. Absent
on purpose: what verl's trainer adds to ``extra_info`` (``num_turns``).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlpost.errors import UserError
from rlpost.verifiers.base import Declaration, GroupCall, Sample, Score
from rlpost.verifiers.contracts.adapter import Adapter, UserFunction
from rlpost.verifiers.contracts.answer import answer_of, names_of_answer
from rlpost.verifiers.contracts.returned import rewards_of, scored
from rlpost.verifiers.contracts.signature import Signature

_PLURALS = {
    "data_source": "data_sources",
    "solution_str": "solution_strs",
    "ground_truth": "ground_truths",
    "extra_info": "extra_infos",
}
_ANSWERS = ("reward_model.ground_truth", "ground_truth", "answer")
_ROW_NUMBER = re.compile(r"(:\d+|\[\d+\])$")


def _is_batched(signature: Signature) -> bool:
    return "solution_strs" in signature.keywords and "solution_str" not in signature.keywords


def _needs_answer(function: UserFunction) -> bool:
    return bool(function.signature.required.intersection({"ground_truth", "ground_truths"}))


def _declare(function: UserFunction) -> Declaration:
    return Declaration(
        groups=_is_batched(function.signature),
        answers=names_of_answer(function, _ANSWERS) if _needs_answer(function) else (),
    )


def _bind(function: UserFunction) -> GroupCall:
    signature, path = function.signature, function.path
    signature.require_keywords(path=path)
    batched = _is_batched(signature)
    names = list(_PLURALS.values() if batched else _PLURALS)
    if not signature.variadic and names[1] not in signature.keywords:
        raise UserError(f"path: {path} does not accept {names[1]!r}; write it as {VERL.spelling}")
    unknown = sorted(signature.required.difference(names))
    if unknown:
        raise UserError(
            f"path: {path} needs {unknown}, but a verl function is called with {names} alone; "
            "give the others default values"
        )

    def judge_one(sample: Sample) -> Score | Exception:
        return _score(function.call(**signature.accepted(_arguments(function, sample))))

    def judge_all(samples: Sequence[Sample]) -> list[Score | Exception]:
        rows = [_arguments(function, sample) for sample in samples]
        arguments = {
            plural: [row[name] for row in rows]
            for name, plural in _PLURALS.items()
            if name in rows[0]
        }
        returned = function.call(**signature.accepted(arguments))
        return [_score(each) for each in rewards_of(returned, num=len(samples))]

    return judge_all if batched else lambda samples: [judge_one(each) for each in samples]


def _arguments(function: UserFunction, sample: Sample) -> dict[str, Any]:
    columns = sample.columns
    arguments = {
        "data_source": columns.get("data_source", _ROW_NUMBER.sub("", sample.address)),
        "solution_str": sample.text,
        "extra_info": columns.get("extra_info") or {},
    }
    required = _needs_answer(function)
    answer = answer_of(function, sample, names=_ANSWERS, required=required)
    if answer is not None or required:
        arguments["ground_truth"] = answer
    return arguments


def _score(returned: Any) -> Score | Exception:
    """Return a reward and its information; what is no reward becomes an error."""
    info: dict[Any, Any] = {}
    if isinstance(returned, Mapping):
        if "score" not in returned:
            return TypeError(
                f"the function returned a dict without 'score': {list(returned)!r:.200}"
            )
        info = {key: value for key, value in returned.items() if key != "score"}
        returned = returned["score"]
    if returned is None:
        return TypeError("the function returned None, where verl's functions return a number")
    return scored(returned, info)


VERL = Adapter(
    title="verl",
    spelling="f(data_source, solution_str, ground_truth, extra_info=None) -> number or dict",
    marks=frozenset({"solution_str", "solution_strs"}),
    declare=_declare,
    bind=_bind,
)
