"""Rows with a prompt and its completion, and those that also judge the completion."""

from rlpost.data.formats.base import Format, answered, content_in, other_columns, tools_in
from rlpost.data.records import Completion, Content, Judged
from rlpost.data.rows import Row
from rlpost.data.system import COLUMN as SYSTEM
from rlpost.data.system import with_system
from rlpost.data.tools import COLUMN as TOOLS
from rlpost.errors import DataError

_PROMPT, _COMPLETION, _LABEL = "prompt", "completion", "label"


def _both(row: Row) -> tuple[Content, Content]:
    prompt, completion = content_in(row, _PROMPT), content_in(row, _COMPLETION)
    return answered(with_system(prompt, row), completion, address=row.address)


def _read(row: Row) -> Completion:
    prompt, completion = _both(row)
    return Completion(
        prompt=prompt,
        completion=completion,
        tools=tools_in(row),
        columns=other_columns(row, _PROMPT, _COMPLETION, SYSTEM, TOOLS),
        address=row.address,
    )


def _read_judged(row: Row) -> Judged:
    prompt, completion = _both(row)
    label = row.columns[_LABEL]
    if label not in (0, 1):  # true and false are 1 and 0
        raise DataError(
            f"{row.address}: column {_LABEL!r} must be true or false, got {label!r:.80}"
        )
    return Judged(
        prompt=prompt,
        completion=completion,
        label=bool(label),
        tools=tools_in(row),
        columns=other_columns(row, _PROMPT, _COMPLETION, _LABEL, SYSTEM, TOOLS),
        address=row.address,
    )


PROMPT_COMPLETION = Format(
    name="prompt_completion",
    kind=Completion,
    required=(_PROMPT, _COMPLETION),
    optional=(SYSTEM, TOOLS),
    read=_read,
)
JUDGED = Format(
    name="judged",
    kind=Judged,
    required=(_PROMPT, _COMPLETION, _LABEL),
    optional=(SYSTEM, TOOLS),
    read=_read_judged,
)
