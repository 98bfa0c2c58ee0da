"""Which suites there are, how each is judged, and its items.

Owns the list. Refuses to own items (the suites) and verifiers, which are named only.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlpost.errors import UserError
from rlpost.evaluation.suites import format, reasoning
from rlpost.evaluation.suites.general import general_items
from rlpost.evaluation.suites.item import Draw, SuiteItem, held_out_items, training_items

Training = Callable[[int, int], Sequence[SuiteItem]]  # size, seed


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One suite. Example: ``SUITES["reasoning"].held_out()[0].prompt``"""

    name: str
    help: str  # one line
    verifier: str  # the kind that judges it
    held_out: Callable[[], Sequence[SuiteItem]]
    training: Training | None = None  # None: there is nothing to train on


def _drawn(name: str, kinds: dict[str, Draw], *, each: int, verifier: str, help: str) -> Suite:
    return Suite(
        name=name,
        help=help,
        verifier=verifier,
        held_out=lambda: held_out_items(kinds, each=each),
        training=lambda size, seed: training_items(kinds, size=size, seed=seed),
    )


_ALL = (
    _drawn(
        "reasoning",
        reasoning.REASONING,
        each=reasoning.EACH,
        verifier="math",
        help="problems of several steps: purchases, operations, boxes, rankings, weekdays",
    ),
    _drawn(
        "format",
        format.FORMAT,
        each=format.EACH,
        verifier="format",
        help="answers of a stated form: JSON, lists, numbers of words, case, endings, entries",
    ),
    Suite(
        name="general",
        help="simple facts, to see what is forgotten",
        verifier="names",
        held_out=general_items,
    ),
)
SUITES = {suite.name: suite for suite in _ALL}


def find_suite(name: str, *, field: str) -> Suite:
    """Return the suite of this name.

    Raises:
        UserError: there is none; lists those that there are.
    """
    if name in SUITES:
        return SUITES[name]
    close = difflib.get_close_matches(name, SUITES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UserError(f"{field} must be one of {', '.join(SUITES)}, got {name!a:.100}{hint}")
