"""Rows with the steps of a solution and a label for each, as TRL writes them."""

from collections.abc import Sequence
from typing import Any

from rlpost.data.formats.base import Format, content_in, list_in, not_blank, other_columns
from rlpost.data.messages import check_messages
from rlpost.data.records import Stepwise
from rlpost.data.rows import Row
from rlpost.data.system import COLUMN as SYSTEM
from rlpost.data.system import with_system
from rlpost.errors import DataError

_PROMPT, _STEPS, _LABELS = "prompt", "completions", "labels"


def _read(row: Row) -> Stepwise:
    prompt = with_system(content_in(row, _PROMPT), row)
    steps, labels = list_in(row, _STEPS), list_in(row, _LABELS)
    if len(steps) != len(labels):
        raise DataError(
            f"{row.address}: {len(steps)} {_STEPS!r}, but {len(labels)} {_LABELS!r}; each step "
            "needs one label"
        )
    if not isinstance(prompt, str):
        prompt = tuple(check_messages(prompt, address=row.address))
    return Stepwise(
        prompt=prompt,
        completions=_steps(steps, address=row.address),
        labels=_rightness(labels, address=row.address),
        columns=other_columns(row, _PROMPT, _STEPS, _LABELS, SYSTEM),
        address=row.address,
    )


def _steps(values: Sequence[Any], *, address: str) -> tuple[str, ...]:
    for index, value in enumerate(values):
        where = f"{address}: {_STEPS}[{index}]"
        if not isinstance(value, str):
            raise DataError(f"{where} must be text, got {type(value).__name__}")
        not_blank(value, where=where)
    return tuple(values)


def _rightness(values: Sequence[Any], *, address: str) -> tuple[float, ...]:
    for index, value in enumerate(values):
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise DataError(
                f"{address}: {_LABELS}[{index}] must be true, false or a number from 0 to 1, got "
                f"{value!r:.80}"
            )
    return tuple(map(float, values))


STEPWISE = Format(
    name="stepwise",
    kind=Stepwise,
    required=(_PROMPT, _STEPS, _LABELS),
    optional=(SYSTEM,),
    read=_read,
)
