"""``steps:solutions``: problems with the steps of a solution, each of them right or wrong.

Owns the problems. Invariants: a step is right or wrong by the problem alone, whatever the steps
before it say; half of the steps are wrong; a wrong one has a number, color or place that the
problem does not have, and is a right one elsewhere, so that no word and no length belongs to wrong
steps: problem and step must be compared.
"""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from rlpost.data.synthetic.consistency import COLORS, COUNTS, NAMES, PLACES, THINGS
from rlpost.data.synthetic.item import StepsItem

Value = TypeVar("Value")


def total(rng: random.Random) -> StepsItem:
    """How many things two people have together."""
    names, thing, counts = rng.sample(NAMES, 2), rng.choice(THINGS), rng.sample(COUNTS, 2)
    told, labels = _told([*counts, counts[0]], others=COUNTS, rng=rng)
    return StepsItem(
        kind="total",
        key=("total", thing, *sorted(counts)),
        prompt=f"{names[0]} has {counts[0]} {thing}s and {names[1]} has {counts[1]}. How many "
        f"{thing}s do they have together?",
        steps=(
            f"{names[0]} has {told[0]} {thing}s.",
            f"{names[1]} has {told[1]} {thing}s.",
            f"To add are {told[2]} and {counts[1]}.",
        ),
        labels=labels,
    )


def moves(rng: random.Random) -> StepsItem:
    """Where a thing is after each move."""
    thing, places = rng.choice(THINGS), rng.sample(PLACES, 3)
    told, labels = _told(places, others=PLACES, rng=rng)
    return StepsItem(
        kind="moves",
        key=("moves", thing, *places),
        prompt=f"The {thing} is in the {places[0]}. It is brought to the {places[1]}, and then to "
        f"the {places[2]}. Where is the {thing} at the end?",
        steps=(
            f"At first the {thing} is in the {told[0]}.",
            f"After one move it is in the {told[1]}.",
            f"At the end it is in the {told[2]}.",
        ),
        labels=labels,
    )


def most(rng: random.Random) -> StepsItem:
    """Which of two boxes holds more."""
    colors, thing, counts = rng.sample(COLORS, 2), rng.choice(THINGS), rng.sample(COUNTS, 2)
    first, first_labels = _told(counts, others=COUNTS, rng=rng)
    (best,), last_label = _told(
        [colors[counts.index(max(counts))]], others=COLORS, rng=rng, taken=colors
    )
    return StepsItem(
        kind="most",
        key=("most", *sorted(zip(colors, counts, strict=True))),
        prompt=f"A {colors[0]} box holds {counts[0]} {thing}s and a {colors[1]} box {counts[1]}. "
        "Which box holds more?",
        steps=(
            f"The {colors[0]} box holds {first[0]}.",
            f"The {colors[1]} box holds {first[1]}.",
            f"The {best} box holds more.",
        ),
        labels=(*first_labels, *last_label),
    )


SOLUTIONS: dict[str, Callable[[random.Random], StepsItem]] = {
    "total": total,
    "moves": moves,
    "most": most,
}


def _told(
    values: Sequence[Value],
    *,
    others: Sequence[Value],
    rng: random.Random,
    taken: Sequence[Value] = (),
) -> tuple[list[Value], tuple[bool, ...]]:
    """Return each value, or one that the problem does not have, and which are right."""
    wrong = [each for each in others if each not in (*values, *taken)]
    labels = tuple(rng.random() < 0.5 for _ in values)
    told = [v if right else rng.choice(wrong) for v, right in zip(values, labels, strict=True)]
    return told, labels
