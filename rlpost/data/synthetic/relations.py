"""``pairs:relations``: answers that give each thing its own value, or exchange the two values.

Owns the facts. Invariants: the prompt states two facts; both answers consist of the same words, and
of the prompt's values alone; the answer names the two things in the prompt's order or the other way
round, equally often. So no word, no length and no order of the values tells which answer is better:
each thing must be traced to what the prompt says of it.
"""

import random
from collections.abc import Callable

from rlpost.data.synthetic.consistency import (
    BELONGINGS,
    COLORS,
    COUNTS,
    DAYS,
    NAMES,
    PLACES,
    SITES,
    THINGS,
)
from rlpost.data.synthetic.item import PairItem


def owner(rng: random.Random) -> PairItem:
    """Two people own the same kind of thing in different colors."""
    thing, people, colors = rng.choice(BELONGINGS), rng.sample(NAMES, 2), rng.sample(COLORS, 2)
    return _item(
        rng,
        kind="owner",
        prompt=f"{people[0]} has a {colors[0]} {thing} and {people[1]} has a {colors[1]} {thing}. "
        f"What color is each {thing}?",
        facts=[f"the {thing} of {name} is {{}}" for name in people],
        values=colors,
    )


def place(rng: random.Random) -> PairItem:
    """Two things lie in different places."""
    things, places = rng.sample(THINGS, 2), rng.sample(PLACES, 2)
    return _item(
        rng,
        kind="place",
        prompt=f"The {things[0]} lies in the {places[0]} and the {things[1]} lies in the "
        f"{places[1]}. Where are they?",
        facts=[f"the {thing} is in the {{}}" for thing in things],
        values=places,
    )


def day(rng: random.Random) -> PairItem:
    """Someone goes to two places on different days."""
    name, sites, days = rng.choice(NAMES), rng.sample(SITES, 2), rng.sample(DAYS, 2)
    return _item(
        rng,
        kind="day",
        prompt=f"{name} goes to the {sites[0]} on {days[0]} and to the {sites[1]} on {days[1]}. "
        "On which days are the visits?",
        facts=[f"the visit to the {site} is on {{}}" for site in sites],
        values=days,
    )


def count(rng: random.Random) -> PairItem:
    """Someone has two numbers of things."""
    name, things, counts = rng.choice(NAMES), rng.sample(THINGS, 2), rng.sample(COUNTS, 2)
    return _item(
        rng,
        kind="count",
        prompt=f"{name} has {counts[0]} {things[0]}s and {counts[1]} {things[1]}s at home. "
        "How many of each are there?",
        facts=[f"the number of {thing}s is {{}}" for thing in things],
        values=[str(each) for each in counts],
    )


RELATIONS: dict[str, Callable[[random.Random], PairItem]] = {
    "owner": owner,
    "place": place,
    "day": day,
    "count": count,
}


def _item(
    rng: random.Random,
    *,
    kind: str,
    prompt: str,
    facts: list[str],
    values: list[str],
) -> PairItem:
    """``facts`` have a gap for their value; the worse answer fills each with the other's."""
    order = rng.choice(((0, 1), (1, 0)))
    right, wrong = (
        " and ".join(facts[i].format(filling[i]) for i in order)
        for filling in (values, values[::-1])
    )
    return PairItem(
        kind=kind,
        key=(kind, *sorted(zip(facts, values, strict=True))),
        prompt=prompt,
        chosen=f"{right[0].upper()}{right[1:]}.",
        rejected=f"{wrong[0].upper()}{wrong[1:]}.",
    )
