"""``format``: short tasks whose answer must have a stated form, which code can check.

Owns the tasks. Judged by ``verifier=format``, which reads the column ``form`` (verifiers/forms.py
says what a form is). Invariants: the prompt states everything that is checked; ``answer`` is one
response that has the form, of which there are many, and is nothing to learn from: it says nothing.
"""

import json
import random
from typing import Any

from rlpost.evaluation.suites.item import Draw, SuiteItem

TOPICS = (
    "the sea", "a rainy day", "a library", "the moon", "an old bridge", "a market", "bread",
    "a river", "the wind", "a garden", "winter", "a train", "music", "a mountain", "the city",
    "a kitchen", "a forest", "honey", "a clock", "the harbor", "a lighthouse", "summer", "a desert",
    "the stars", "a bicycle", "a letter", "snow", "a castle", "an island", "a theater", "coffee",
    "a museum", "the night", "a village", "a painter", "a storm", "a boat", "a dog", "an orchard",
    "a window", "autumn", "a school", "an airport", "a candle", "a piano", "the sun", "a farmer",
    "a hotel", "a meadow", "glass", "a map", "a waterfall", "tea", "a street", "a birthday",
    "an engine", "a camel", "paper", "a stadium", "a tower", "silence", "a soup", "a cave",
    "a robot", "spring", "a nurse", "a lake", "a carpet", "an elephant", "ice", "a baker", "a kite",
)  # fmt: skip
WORDS = (
    "calm", "bright", "old", "wide", "quiet", "green", "warm", "slow", "deep", "full", "near",
    "light", "small", "fresh", "clear", "long",
)  # fmt: skip
FIELDS = {
    "name": ("string", "Mira"),
    "age": ("integer", 31),
    "city": ("string", "Lisbon"),
    "score": ("number", 7.5),
    "active": ("boolean", True),
    "tags": ("array", ["new", "blue"]),
    "year": ("integer", 1998),
    "title": ("string", "Tides"),
}
ENDINGS = ("That is all.", "Thank you.", "The end.", "Over and out.", "See you soon.")
MARKS = (";", "|", "/")
BULLETS = ("-", "*", "1.")


def json_object(rng: random.Random) -> SuiteItem:
    """A JSON object with given keys and types."""
    names = rng.sample(sorted(FIELDS), rng.randint(2, 4))
    wanted = ", ".join(f'"{name}" ({FIELDS[name][0]})' for name in names)
    return _item(
        "json",
        tuple(names),
        f"Invent a record about {rng.choice(TOPICS)}. Answer with one JSON object and nothing "
        f"else. It has exactly these keys: {wanted}.",
        {"kind": "json", "keys": {name: FIELDS[name][0] for name in names}},
        json.dumps({name: FIELDS[name][1] for name in names}),
    )


def bullets(rng: random.Random) -> SuiteItem:
    """A list of so many lines."""
    topic, count, mark = rng.choice(TOPICS), rng.randint(3, 6), rng.choice(BULLETS)
    marks = [f"{number}." for number in range(1, count + 1)] if mark == "1." else [mark] * count
    how = "numbered 1., 2. and so on" if mark == "1." else f'each beginning with "{mark} "'
    return _item(
        "bullets",
        (topic, count, mark),
        f'List {count} things that go with "{topic}". Answer with exactly '
        f"{count} lines, {how}, and write nothing else.",
        {"kind": "bullets", "count": count, "mark": mark},
        "\n".join(f"{m} something {word}" for m, word in zip(marks, WORDS, strict=False)),
    )


def word_count(rng: random.Random) -> SuiteItem:
    """A sentence of so many words."""
    topic, count = rng.choice(TOPICS), rng.randint(4, 12)
    return _item(
        "words",
        (topic, count),
        f"Write about {topic}. Use exactly {count} words, not one more or less.",
        {"kind": "words", "count": count},
        " ".join((*WORDS, *WORDS)[:count]).capitalize() + ".",
    )


def letter_case(rng: random.Random) -> SuiteItem:
    """Capital letters alone, or none."""
    topic, case = rng.choice(TOPICS), rng.choice(("upper", "lower"))
    letters = "capital letters only" if case == "upper" else "small letters only, no capital letter"
    text = f"one thing about {topic} is {rng.choice(WORDS)}."
    return _item(
        "case",
        (topic, case),
        f"Write one sentence about {topic}. Write the whole answer in {letters}.",
        {"kind": "case", "case": case},
        text.upper() if case == "upper" else text,
    )


def ending(rng: random.Random) -> SuiteItem:
    """A text that ends with a given sentence."""
    topic, last = rng.choice(TOPICS), rng.choice(ENDINGS)
    return _item(
        "ending",
        (topic, last),
        f"Write one or two sentences about {topic}. End the answer with exactly this sentence: "
        f"{last}",
        {"kind": "ending", "text": last},
        f"There is much to say about {topic}. {last}",
    )


def separated(rng: random.Random) -> SuiteItem:
    """So many entries on one line, with a given mark between them."""
    topic, count, mark = rng.choice(TOPICS), rng.randint(3, 6), rng.choice(MARKS)
    return _item(
        "separated",
        (topic, count, mark),
        f"Give {count} words that go with {topic}. Write them on one line with the character "
        f'"{mark}" between them, and write nothing else.',
        {"kind": "separated", "count": count, "mark": mark},
        f" {mark} ".join(WORDS[:count]),
    )


FORMAT: dict[str, Draw] = {
    "json": json_object,
    "bullets": bullets,
    "words": word_count,
    "case": letter_case,
    "ending": ending,
    "separated": separated,
}
EACH = 24  # held-out items of each kind


def _item(
    kind: str, key: tuple[object, ...], prompt: str, form: dict[str, Any], answer: str
) -> SuiteItem:
    return SuiteItem(
        kind=kind,
        key=(kind, *key),
        prompt=prompt,
        answer=answer,
        columns={"form": form},
    )
