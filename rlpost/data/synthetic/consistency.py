"""``pairs:consistency``: answers that agree with what the prompt says, or contradict it.

Owns the stories. Invariants: the right answer follows from the prompt alone; both answers have the
same form, and each word of one is in a chosen answer as often as in a rejected one, so that neither
words nor length tell which is which, nor does the place of the fact in the prompt; the same facts
told in another order are the same item.
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
THINGS = ("key", "coin", "book", "pen", "ring", "letter", "ball", "map", "phone", "ticket")
PLACES = (
    "box", "drawer", "kitchen", "garden", "car", "basket", "office", "cellar", "bedroom", "closet",
)  # fmt: skip
SCALES = (
    ("taller", "shorter"),
    ("older", "younger"),
    ("faster", "slower"),
    ("richer", "poorer"),
    ("stronger", "weaker"),
    ("louder", "quieter"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SITES = (
    "shop", "museum", "library", "bank", "pool", "market", "cinema", "bakery", "zoo", "gym",
    "park", "theater", "castle", "station", "harbor", "school",
)  # fmt: skip


def color(rng: random.Random) -> PairItem:
    """Two people own a thing each, of different colors."""
    people, colors = rng.sample(NAMES, 2), rng.sample(COLORS, 2)
    thing, asked = rng.choice(BELONGINGS), rng.randrange(2)
    return PairItem(
        kind="color",
        key=("color", thing, colors[asked], colors[1 - asked]),
        prompt=f"{people[0]} has a {colors[0]} {thing} and {people[1]} has a {colors[1]} {thing}. "
        f"What color is the {thing} of {people[asked]}?",
        chosen=f"The {thing} of {people[asked]} is {colors[asked]}.",
        rejected=f"The {thing} of {people[asked]} is {colors[1 - asked]}.",
    )


def place(rng: random.Random) -> PairItem:
    """Two things lie in different places."""
    things, places, asked = rng.sample(THINGS, 2), rng.sample(PLACES, 2), rng.randrange(2)
    return PairItem(
        kind="place",
        key=("place", things[asked], places[asked], things[1 - asked], places[1 - asked]),
        prompt=f"The {things[0]} is in the {places[0]} and the {things[1]} is in the {places[1]}. "
        f"Where is the {things[asked]}?",
        chosen=f"The {things[asked]} is in the {places[asked]}.",
        rejected=f"The {things[asked]} is in the {places[1 - asked]}.",
    )


def order(rng: random.Random) -> PairItem:
    """One person exceeds another."""
    people, scale = rng.sample(NAMES, 2), rng.choice(SCALES)
    told, asked = rng.randrange(2), rng.randrange(2)
    right = people[0] if told == asked else people[1]
    wrong = people[1] if told == asked else people[0]
    return PairItem(
        kind="order",
        key=("order", scale[0], *(people if told == 0 else people[::-1])),
        prompt=f"{people[0]} is {scale[told]} than {people[1]}. Who is {scale[asked]}?",
        chosen=f"{right} is {scale[asked]} than {wrong}.",
        rejected=f"{wrong} is {scale[asked]} than {right}.",
    )


def opening(rng: random.Random) -> PairItem:
    """A question that is answered by yes or no."""
    site, days = rng.choice(SITES), rng.sample(DAYS, 2)
    first, asked = rng.randrange(2), rng.randrange(2)
    states = ("open", "closed") if first == 0 else ("closed", "open")
    is_open = states[asked] == "open"
    answers = (
        f"Yes, the {site} is open on {days[asked]}.",
        f"No, the {site} is closed on {days[asked]}.",
    )
    return PairItem(
        kind="opening",
        key=("opening", site, days[first], days[1 - first]),  # open, closed
        prompt=f"The {site} is {states[0]} on {days[0]} and {states[1]} on {days[1]}. Is it open "
        f"on {days[asked]}?",
        chosen=answers[0] if is_open else answers[1],
        rejected=answers[1] if is_open else answers[0],
    )


CONSISTENCY: dict[str, Callable[[random.Random], PairItem]] = {
    "color": color,
    "place": place,
    "order": order,
    "opening": opening,
}
