"""The formats there are, and which one a row is in.

Owns the table and the choice. Refuses to own what a format means (its own file). Invariant: a row
is in exactly one format that the reader accepts, or it is refused; nothing is guessed. A new
format is one file and one line of the table.
"""

from collections.abc import Mapping

from rlpost.data.formats.alpaca import ALPACA
from rlpost.data.formats.base import Format
from rlpost.data.formats.completion import JUDGED, PROMPT_COMPLETION
from rlpost.data.formats.messages import MESSAGES
from rlpost.data.formats.pair import PAIR
from rlpost.data.formats.sharegpt import SHAREGPT
from rlpost.data.formats.stepwise import STEPWISE
from rlpost.data.formats.text import TEXT
from rlpost.data.records import (
    Completion,
    Conversation,
    Document,
    Judged,
    Pair,
    Record,
    Stepwise,
)
from rlpost.data.rows import Row, listed
from rlpost.errors import DataError

FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        MESSAGES, SHAREGPT, ALPACA, PROMPT_COMPLETION, TEXT, PAIR, JUDGED, STEPWISE,
    )
}  # fmt: skip
Kinds = tuple[type[Record], ...]

# What an error advises for rows that are not wanted.
_LEARNT_BY: Mapping[type, str] = {
    Conversation: "rlpost sft",
    Completion: "rlpost sft",
    Document: "rlpost pretrain",
    Pair: "rlpost preference or rlpost reward",
    Judged: "rlpost preference loss=kto",
    Stepwise: "rlpost reward loss=step",
}


def recognise(row: Row, *, accepts: Kinds, field: str = "data") -> Format:
    """Return the format of a row by the columns that hold something.

    A format whose columns are all among those of another one that fits gives way to it: a row with
    a prompt, a completion and a label is judged. Formats of other records than ``accepts`` do not
    compete with those of accepted ones.

    Args:
        row: the row.
        accepts: the kinds of records that are wanted.
        field: the options of the source, for the way out.

    Raises:
        DataError: no format fits, several do, or the one that fits is not accepted.
    """
    present = [name for name, value in row.columns.items() if value is not None]
    fitting = [each for each in FORMATS.values() if set(present).issuperset(each.required)]
    special = [
        one
        for one in fitting
        if not any(set(one.required) < set(other.required) for other in fitting)
    ]
    usable = [each for each in special if each.kind in accepts]
    if len(usable) == 1:
        return usable[0]
    wanted = ", ".join(map(str, accepted_formats(accepts)))
    if usable:
        raise DataError(
            f"{row.address}: the columns fit {len(usable)} formats: "
            f"{', '.join(map(str, usable))}; choose with "
            f"{field}.format={'|'.join(each.name for each in usable)}"
        )
    if special:
        raise DataError(
            f"{row.address}: the row is in the format {special[0]}, which this stage does not "
            f"learn from; it takes {wanted}. Use {_LEARNT_BY[special[0].kind]}, or choose a "
            f"format with {field}.format"
        )
    asks = "; a prompt alone is for stages that sample answers, such as rl"
    raise DataError(
        f"{row.address}: the columns {listed(present)} fit no format; there are {wanted}"
        f"{asks if 'prompt' in present else ''}. Rename columns with {field}.columns, for example "
        f"{field}.columns.{accepted_formats(accepts)[0].required[-1]}=NAME"
    )


def accepted_formats(accepts: Kinds) -> list[Format]:
    """Return the formats whose records are of the kinds that are wanted."""
    return [each for each in FORMATS.values() if each.kind in accepts]
