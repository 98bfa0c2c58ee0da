"""OpenRLHF: ``reward_func(queries, prompts, labels) -> tensor, list or dict``.

One call gets all responses of a group. ``prompts`` holds the text that the model read, with
the chat template; ``queries`` the same text followed by the response, without the closing
token; ``labels`` the column ``label``, ``answer`` or ``ground_truth``. A dict holds ``rewards``,
which are trained on; its ``scores``, which OpenRLHF filters by, and its ``extra_logs`` are
information.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlpost.errors import UserError
from rlpost.verifiers.base import Declaration, GroupCall, Sample, Score
from rlpost.verifiers.contracts.adapter import Adapter, UserFunction
from rlpost.verifiers.contracts.answer import answer_of, names_of_answer
from rlpost.verifiers.contracts.returned import per_response, rewards_of, scored

_NAMES = ("queries", "prompts", "labels")
_NO_REWARD = TypeError("the function returned None, where OpenRLHF's functions return a number")
_ANSWERS = ("label", "answer", "ground_truth", "reward_model.ground_truth")


def _needs_answer(function: UserFunction) -> bool:
    return not _by_name(function) or "labels" in function.signature.required


def _by_name(function: UserFunction) -> bool:
    return "queries" in function.signature.keywords


def _declare(function: UserFunction) -> Declaration:
    answers = names_of_answer(function, _ANSWERS) if _needs_answer(function) else ()
    return Declaration(groups=True, answers=answers)


def _bind(function: UserFunction) -> GroupCall:
    by_name = _by_name(function)
    _check(function, by_name=by_name)

    def judge(samples: Sequence[Sample]) -> list[Score | Exception]:
        prompts = [_prompt(sample) for sample in samples]
        queries = [p + each.text for p, each in zip(prompts, samples, strict=True)]
        arguments = {"queries": queries, "prompts": prompts}
        labels = [_label(function, sample) for sample in samples]
        if all(label is not None for label in labels):
            arguments["labels"] = labels
        if by_name:
            returned = function.call(**function.signature.accepted(arguments))
        else:  # as OpenRLHF itself calls it, whatever the parameters are named
            returned = function.call(*(arguments[name] for name in _NAMES))
        return _scores(returned, num=len(samples))

    return judge


def _check(function: UserFunction, *, by_name: bool) -> None:
    signature, path = function.signature, function.path
    if by_name:
        signature.require_keywords(path=path)
        unknown = sorted(signature.required.difference(_NAMES))
    elif signature.max_positional < len(_NAMES):
        raise UserError(
            f"path: {path} cannot be called with three lists; write it as {OPENRLHF.spelling}"
        )
    else:
        unknown = sorted(signature.required.difference(signature.positional[: len(_NAMES)]))
    if unknown:
        raise UserError(
            f"path: {path} needs {unknown}, but an OpenRLHF function is called with "
            f"{list(_NAMES)} alone; give the others default values"
        )


def _prompt(sample: Sample) -> str:
    if sample.prompt_text or not isinstance(sample.prompt, str):
        return sample.prompt_text
    return sample.prompt


def _label(function: UserFunction, sample: Sample) -> Any:
    """Return the row's answer; None: it has none, and the function does not ask for it."""
    if function.answer_column == "":
        return ""  # as OpenRLHF does without a label key
    return answer_of(function, sample, names=_ANSWERS, required=_needs_answer(function))


def _scores(returned: Any, *, num: int) -> list[Score | Exception]:
    logs: dict[Any, list[Any]] = {}
    if isinstance(returned, Mapping):
        if "rewards" not in returned:
            keys = f"{list(returned)!r:.200}"
            return [TypeError(f"the function returned a dict without 'rewards': {keys}")] * num
        extra = returned.get("extra_logs") or {}
        if not isinstance(extra, Mapping):
            kind = type(extra).__name__
            return [TypeError(f"the function's extra_logs must be a dict, got {kind}")] * num
        if returned.get("scores") is not None:
            extra = {"scores": returned["scores"], **extra}
        logs = {name: per_response(value, num=num) for name, value in extra.items()}
        returned = returned["rewards"]
    if num == 1 and _is_scalar(returned):
        returned = [returned]  # OpenRLHF passes one response a call and takes what float() takes
    rewards = [_NO_REWARD if each is None else each for each in rewards_of(returned, num=num)]
    return [
        scored(reward, {name: values[i] for name, values in logs.items()})
        for i, reward in enumerate(rewards)
    ]


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "shape", None) == ()


OPENRLHF = Adapter(
    title="OpenRLHF",
    spelling="f(queries, prompts, labels) -> list of numbers, tensor or dict",
    marks=frozenset({"queries"}),
    declare=_declare,
    bind=_bind,
)
