"""Which column of a row is the reference answer that a function asks for."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlpost.errors import DataError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.contracts.adapter import UserFunction

_VERL = "reward_model.ground_truth"  # nested in verl's rows


def names_of_answer(function: UserFunction, usual: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that may hold the answer; none where the function reads no answer."""
    if function.answer_column is None:
        return tuple(usual)
    return (function.answer_column,) if function.answer_column else ()


def first_answer(columns: Mapping[str, Any], names: Sequence[str]) -> Any | None:
    """Return the first value among the columns ``names``, None when there is none."""
    values = (_column(columns, name) for name in names)
    return next((value for value in values if value is not None), None)


def answer_of(
    function: UserFunction, sample: Sample, *, names: Sequence[str], required: bool
) -> Any | None:
    """Return the answer of the sample's row as the row has it, None when it has none.

    Args:
        function: its ``answer_column`` replaces ``names``.
        sample: the response to judge.
        names: columns to look in, in this order.
        required: whether a row without an answer is an error.

    Raises:
        DataError: the row has no answer.
    """
    names = names_of_answer(function, names)
    answer = first_answer(sample.columns, names)
    if answer is not None or not names:
        return answer
    if not required:
        return None
    at = f"{sample.address}: " if sample.address else ""
    raise DataError(
        f"{at}{function.path} needs the answer, and the row has none in {list(names)} (its "
        f"columns are {sorted(map(str, sample.columns))}); name the column with "
        "verifier.answer_column, or leave that empty, verifier.answer_column='', if the function "
        "reads no answer"
    )


def _column(columns: Mapping[str, Any], name: str) -> Any:
    if name == _VERL:
        nested = columns.get("reward_model")
        return nested.get("ground_truth") if isinstance(nested, Mapping) else None
    return columns.get(name)
