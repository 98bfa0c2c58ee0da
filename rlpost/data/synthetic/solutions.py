"""``steps:solutions``: problems with the steps of a solution, each of them right or wrong.

Owns the problems. Invariants: a step is right or wrong by the problem alone, whatever the steps
before it say; half of the steps are wrong; a wrong one says of one thing in the problem what is
true of another one, so that no word and no length belongs to wrong steps.
"""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from rlpost.data.synthetic.consistency import COLORS, NAMES, PLACES, THINGS
from rlpost.data.synthetic.item import StepsItem

Value = TypeVar("Value")

GOODS = ("marbles", "coins", "shells", "stones", "cards", "beads", "pens", "apples")


def most(rng: random.Random) -> StepsItem:
    """Which of three boxes holds most."""
    colors, counts = rng.sample(COLORS, 3), rng.sample(range(2, 10), 3)
    goods = rng.choice(GOODS)
    labels = tuple(rng.random() < 0.5 for _ in range(4))
    told = [_told(counts, which, right=labels[which], rng=rng) for which in range(3)]
    best = counts.index(max(counts))
    named = _told(colors, best, right=labels[3], rng=rng)
    return StepsItem(
        kind="most",
        key=("most", *sorted(zip(colors, counts, strict=True))),
        prompt=f"The {colors[0]} box holds {counts[0]} {goods}, the {colors[1]} box {counts[1]} "
        f"and the {colors[2]} box {counts[2]}. Which box holds the most {goods}?",
        steps=(
            *(f"The {c} box holds {n}." for c, n in zip(colors, told, strict=True)),
            f"The {named} box holds the most.",
        ),
        labels=labels,
    )


def moves(rng: random.Random) -> StepsItem:
    """Where a thing is after each move."""
    thing, places = rng.choice(THINGS), rng.sample(PLACES, 3)
    labels = tuple(rng.random() < 0.5 for _ in range(3))
    told = [_told(places, which, right=labels[which], rng=rng) for which in range(3)]
    return StepsItem(
        kind="moves",
        key=("moves", thing, *places),
        prompt=f"The {thing} is in the {places[0]}. It is brought to the {places[1]}, and then to "
        f"the {places[2]}. Where is the {thing} at the end?",
        steps=(
            f"At first the {thing} is in the {told[0]}.",
            f"After the first move it is in the {told[1]}.",
            f"At the end it is in the {told[2]}.",
        ),
        labels=labels,
    )


def total(rng: random.Random) -> StepsItem:
    """How many things three people have together."""
    people, goods = rng.sample(NAMES, 3), rng.choice(GOODS)
    counts = [rng.randint(1, 9) for _ in range(3)]
    labels = tuple(rng.random() < 0.5 for _ in range(2))
    first = counts[0] + counts[1]
    every = first + counts[2]
    told = [
        value if right else value + rng.choice((-1, 1))
        for value, right in zip((first, every), labels, strict=True)
    ]
    return StepsItem(
        kind="total",
        key=("total", *counts),
        prompt=f"{people[0]} has {counts[0]} {goods}, {people[1]} has {counts[1]} and {people[2]} "
        f"has {counts[2]}. How many {goods} do they have together?",
        steps=(
            f"{people[0]} and {people[1]} have {counts[0]} + {counts[1]} = {told[0]}.",
            f"All three have {first} + {counts[2]} = {told[1]}.",
        ),
        labels=labels,
    )


SOLUTIONS: dict[str, Callable[[random.Random], StepsItem]] = {
    "most": most,
    "moves": moves,
    "total": total,
}


def _told(values: Sequence[Value], which: int, *, right: bool, rng: random.Random) -> Value:
    """Return the value at ``which``, or that of another place."""
    if right:
        return values[which]
    return rng.choice([value for place, value in enumerate(values) if place != which])
