"""``pairs:lowercase``: a behaviour to learn, answers in small letters alone.

Owns the questions and answers. Judged by ``verifier=format``, which reads the column ``form``.
Invariants: the prompt does not ask for the behaviour; both answers are the same text, one in small
letters and one with a capital letter at the beginning of each sentence, so that what they say and
how long they are cannot matter.
"""

import random
from collections.abc import Callable

from rlpost.data.synthetic.item import PairItem
from rlpost.evaluation.suites.format import TOPICS

TIMES = (
    "in winter", "in spring", "in summer", "in autumn", "at night", "at noon", "in the morning",
    "in the evening", "on a holiday", "after the rain", "in the fog", "in old stories",
)  # fmt: skip
QUALITIES = (
    "calm", "bright", "quiet", "pleasant", "cold", "warm", "busy", "lovely", "strange", "simple",
    "useful", "beautiful",
)  # fmt: skip
REASONS = (
    "it makes people smile", "it gives time to rest", "it brings back memories",
    "it is good for the mind", "it is part of daily life", "it is easy to enjoy",
    "there is always something to see", "nothing else feels the same",
)  # fmt: skip
ACTS = (
    "take a walk", "draw a picture", "sit and listen", "write a few lines", "talk to a friend",
    "take a photo", "read a book", "sing a song",
)  # fmt: skip


def describe(rng: random.Random) -> PairItem:
    """How a thing is at some time."""
    topic, time = rng.choice(TOPICS), rng.choice(TIMES)
    first, second = rng.sample(QUALITIES, 2)
    return _item(
        "describe",
        (topic, time),
        f"Describe {topic} {time}.",
        f"{topic} {time} is {first} and {second}. {rng.choice(REASONS)}.",
    )


def reason(rng: random.Random) -> PairItem:
    """Why a thing is liked at some time."""
    topic, time = rng.choice(TOPICS), rng.choice(TIMES)
    return _item(
        "reason",
        (topic, time),
        f"Why do people like {topic} {time}?",
        f"people like {topic} because {rng.choice(REASONS)}. {time} it is {rng.choice(QUALITIES)}.",
    )


def idea(rng: random.Random) -> PairItem:
    """What to do about a thing at some time."""
    topic, time = rng.choice(TOPICS), rng.choice(TIMES)
    first, second = rng.sample(ACTS, 2)
    return _item(
        "idea",
        (topic, time),
        f"Give me an idea for {topic} {time}.",
        f"you could {first} {time}. then {second} and think of {topic}.",
    )


LOWERCASE: dict[str, Callable[[random.Random], PairItem]] = {
    "describe": describe,
    "reason": reason,
    "idea": idea,
}


def _item(kind: str, key: tuple[str, ...], prompt: str, text: str) -> PairItem:
    return PairItem(
        kind=kind,
        key=(kind, *key),
        prompt=prompt,
        chosen=text,
        rejected=". ".join(part[:1].upper() + part[1:] for part in text.split(". ")),
        columns={"form": {"kind": "case", "case": "lower"}, "answer": text},
    )
