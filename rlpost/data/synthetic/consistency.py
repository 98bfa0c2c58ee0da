"""``pairs:consistency``: answers that agree with what the prompt says, or contradict it.

Owns the facts. Invariants: the right answer follows from the prompt alone; the rejected answer is
the chosen one with another color, place, day or number, which the prompt does not have, and each of
these is in a chosen answer as often as in a rejected one, so that neither words nor length tell
which is which: prompt and answer must be compared.
"""

import random
from collections.abc import Callable

from rlpost.data.synthetic.item import PairItem

NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Julia", "Kevin",
    "Laura", "Martin", "Nina", "Oscar", "Paula", "Robert", "Sarah", "Tom",
)  # fmt: skip
COLORS = ("red", "blue", "green", "white", "black", "yellow", "brown", "gray", "pink", "purple")
BELONGINGS = ("cup", "coat", "car", "bike", "hat", "bag", "door", "boat", "lamp", "chair")
THINGS = (
    "key", "coin", "book", "pen", "ring", "letter", "ball", "map", "phone", "ticket", "stamp",
    "candle", "shell", "button",
)  # fmt: skip
PLACES = (
    "box", "drawer", "kitchen", "garden", "car", "basket", "office", "cellar", "bedroom", "closet",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SITES = (
    "shop", "museum", "library", "bank", "pool", "market", "cinema", "bakery", "zoo", "gym",
    "park", "theater", "castle", "station", "harbor", "school",
)  # fmt: skip
COUNTS = range(2, 13)


def color(rng: random.Random) -> PairItem:
    """What someone owns has a color."""
    name, thing, (right, wrong) = rng.choice(NAMES), rng.choice(BELONGINGS), rng.sample(COLORS, 2)
    return PairItem(
        kind="color",
        key=("color", name, thing, right),
        prompt=f"{name} has a {right} {thing}. What color is the {thing}?",
        chosen=f"The {thing} is {right}.",
        rejected=f"The {thing} is {wrong}.",
    )


def place(rng: random.Random) -> PairItem:
    """A thing lies somewhere."""
    name, thing, (right, wrong) = rng.choice(NAMES), rng.choice(THINGS), rng.sample(PLACES, 2)
    return PairItem(
        kind="place",
        key=("place", name, thing, right),
        prompt=f"{name} has put the {thing} into the {right}. Where is the {thing}?",
        chosen=f"The {thing} is in the {right}.",
        rejected=f"The {thing} is in the {wrong}.",
    )


def day(rng: random.Random) -> PairItem:
    """Someone goes somewhere on some day."""
    name, site, (right, wrong) = rng.choice(NAMES), rng.choice(SITES), rng.sample(DAYS, 2)
    return PairItem(
        kind="day",
        key=("day", name, site, right),
        prompt=f"{name} goes to the {site} on {right}. On which day is that?",
        chosen=f"The visit to the {site} is on {right}.",
        rejected=f"The visit to the {site} is on {wrong}.",
    )


def count(rng: random.Random) -> PairItem:
    """Someone has a number of things."""
    name, thing, (right, wrong) = rng.choice(NAMES), rng.choice(THINGS), rng.sample(COUNTS, 2)
    return PairItem(
        kind="count",
        key=("count", name, thing, right),
        prompt=f"{name} has {right} {thing}s at home. How many {thing}s does {name} have?",
        chosen=f"{name} has {right} {thing}s.",
        rejected=f"{name} has {wrong} {thing}s.",
    )


CONSISTENCY: dict[str, Callable[[random.Random], PairItem]] = {
    "color": color,
    "place": place,
    "day": day,
    "count": count,
}
