"""``reasoning``: problems of several steps in five kinds, each with a worked solution.

Owns the problems. Judged by ``verifier=math``. Invariants: a problem has one answer, which is a
whole number, a name or a weekday; the worked solution ends with it; who and what a problem is
about does not belong to its parameters, so a held-out problem is in no training set under other
names.
"""

import random

from rlpost.evaluation.suites.item import Draw, SuiteItem

NAMES = (
    "Anna", "Boris", "Carla", "David", "Elena", "Farid", "Greta", "Hassan", "Irina", "Jonas",
    "Kira", "Liam", "Mona", "Nadia", "Oscar", "Paula", "Quentin", "Rosa", "Samir", "Tessa",
)  # fmt: skip
GOODS = (
    "pencils", "notebooks", "apples", "candles", "stickers", "postcards", "muffins", "ribbons",
    "lemons", "bottles", "brushes", "buttons",
)  # fmt: skip
THINGS = ("marbles", "coins", "shells", "stones", "cards", "beads")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NOTES = (50, 100, 200)
EVENTS = ("exam", "concert", "race", "wedding", "meeting", "trip")

# What a ranking compares by: more of it, less of it, most of it.
SCALES = (
    ("taller than", "shorter than", "tallest"),
    ("older than", "younger than", "oldest"),
    ("faster than", "slower than", "fastest"),
    ("richer than", "poorer than", "richest"),
)
ORDINALS = ("", "second ", "third ", "fourth ")


def shopping(rng: random.Random) -> SuiteItem:
    """Two purchases and the change."""
    many, few = rng.randint(2, 9), rng.randint(2, 9)
    dear, cheap = rng.randint(2, 15), rng.randint(2, 15)
    first, second = many * dear, few * cheap
    total = first + second
    note = next((each for each in NOTES if each > total), 300)
    change = note - total
    one, other = rng.sample(GOODS, 2)
    return _item(
        "shopping",
        tuple(sorted(((many, dear), (few, cheap)))),
        f"{rng.choice(NAMES)} buys {many} {one} at {dear} dollars each and {few} {other} at "
        f"{cheap} dollars each, and pays with {note} dollars. How many dollars of change are due?",
        (
            f"The {one} cost {many} * {dear} = {first} dollars.",
            f"The {other} cost {few} * {cheap} = {second} dollars.",
            f"Together that is {first} + {second} = {total} dollars.",
            f"The change is {note} - {total} = {change} dollars.",
        ),
        str(change),
    )


def steps(rng: random.Random) -> SuiteItem:
    """A number that four operations are done to."""
    start = value = rng.randint(2, 12)
    key: list[object] = [start]
    orders, lines = [], []
    for _ in range(4):
        verb, sign, amounts = rng.choice(
            [each for lowest, highest, each in _OPERATIONS if lowest <= value <= highest]
        )
        amount = rng.choice(amounts)
        result = {"+": value + amount, "-": value - amount, "*": value * amount}[sign]
        orders.append(f"{verb} {amount}.")
        lines.append(f"{value} {sign} {amount} = {result}.")
        key += [verb, amount]
        value = result
    return _item(
        "steps",
        tuple(key),
        f"Start with the number {start}. {' '.join(orders)} Which number do you get?",
        tuple(lines),
        str(value),
    )


# The least and the largest number that each is applied to; then verb, sign and amounts.
_OPERATIONS = (
    (1, 10**6, ("Add", "+", range(3, 30))),
    (20, 10**6, ("Subtract", "-", range(1, 20))),
    (1, 40, ("Multiply by", "*", range(2, 6))),
)


def boxes(rng: random.Random) -> SuiteItem:
    """Things that are moved between three boxes."""
    colors = rng.sample(("red", "blue", "green", "white", "black"), 3)
    start = [rng.randint(6, 20) for _ in colors]
    counts = list(start)
    thing = rng.choice(THINGS)
    key: list[tuple[int, int, int]] = []
    moves, lines = [], []
    for place in range(3):
        source = rng.choice([box for box in range(3) if counts[box] > 1])
        target = rng.choice([box for box in range(3) if box != source])
        amount = rng.randint(1, counts[source] - 1)
        counts[source] -= amount
        counts[target] += amount
        moves.append(
            f"{amount} {thing if amount > 1 else thing[:-1]} "
            f"{'are' if amount > 1 else 'is'} moved from the {colors[source]} box to the "
            f"{colors[target]} box"
        )
        key.append((source, target, amount))
        lines.append(
            f"After move {place + 1} the {colors[source]} box holds {counts[source]} and the "
            f"{colors[target]} box {counts[target]}."
        )
    asked = rng.choice(sorted({box for source, target, _ in key for box in (source, target)}))
    return _item(
        "boxes",
        (tuple(start), tuple(key), asked),
        f"A {colors[0]} box holds {start[0]} {thing}, a {colors[1]} box {start[1]} and a "
        f"{colors[2]} box {start[2]}. First {moves[0]}, then {moves[1]}, and at last {moves[2]}. "
        f"How many {thing} does the {colors[asked]} box hold then?",
        tuple(lines),
        str(counts[asked]),
    )


def ranking(rng: random.Random) -> SuiteItem:
    """Five people whose order follows from four comparisons."""
    people = rng.sample(NAMES, 5)  # from most to least
    more, less, most = rng.choice(SCALES)
    links = rng.sample(range(4), 4)
    turned = [rng.random() < 0.5 for _ in links]
    clues = [
        f"{people[i + 1]} is {less} {people[i]}."
        if flip
        else f"{people[i]} is {more} {people[i + 1]}."
        for i, flip in zip(links, turned, strict=True)
    ]
    asked = rng.randrange(4)
    return _item(
        "ranking",
        (tuple(links), tuple(turned), asked),
        f"{' '.join(clues)} Who is the {ORDINALS[asked]}{most} of the five?",
        (
            f"From the {most} on, the order is {', '.join(people)}.",
            f"The {ORDINALS[asked]}{most} is {people[asked]}.",
        ),
        people[asked],
    )


def calendar(rng: random.Random) -> SuiteItem:
    """A weekday that lies some days after, or before, another one."""
    today, ahead, back = rng.randrange(7), rng.randint(9, 60), rng.randint(2, 8)
    event, other = rng.sample(EVENTS, 2)
    shift = ahead - back
    day = WEEKDAYS[(today + shift) % 7]
    return _item(
        "calendar",
        (today, ahead, back),
        f"Today is {WEEKDAYS[today]}. The {event} is in {ahead} days, and the {other} is {back} "
        f"days before the {event}. On which day of the week is the {other}?",
        (
            f"The {other} is in {ahead} - {back} = {shift} days.",
            f"{shift} - 7 * {shift // 7} = {shift % 7}.",
            f"So it is the weekday that is {shift % 7} after {WEEKDAYS[today]}, which is {day}.",
        ),
        day,
    )


REASONING: dict[str, Draw] = {
    "shopping": shopping,
    "steps": steps,
    "boxes": boxes,
    "ranking": ranking,
    "calendar": calendar,
}
EACH = 64  # held-out items of each kind

_REQUEST = 'Solve it step by step and end with "The answer is", followed by the'
_ANSWERS = {"ranking": "name", "calendar": "day"}  # else number


def _item(
    kind: str, key: tuple[object, ...], question: str, lines: tuple[str, ...], answer: str
) -> SuiteItem:
    return SuiteItem(
        kind=kind,
        key=(kind, *key),
        prompt=f"{question} {_REQUEST} {_ANSWERS.get(kind, 'number')}.",
        answer=answer,
        completion=f"{' '.join(lines)} The answer is {answer}.",
    )
