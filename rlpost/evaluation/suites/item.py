"""What a suite consists of, and how training and held-out items are kept apart.

Owns the record and the split, which sets of pairs and of steps (data/synthetic/) have too. Refuses
to own questions (the suites) and rows (data/sources/).
Invariants: the hash of an item's parameters decides its side, whatever the seed, the number of
items and the words around the parameters, so nothing that is trained on is asked; the items of a
seed are the same in every process.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Protocol, TypeVar

HELDOUT_ONE_IN = 5
_HELDOUT_SEED = "held-out"
# A kind of few parameters runs out of new ones: it is given up after so many draws in vain.
_MAX_VAIN_DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class SuiteItem:
    """One question with its right answer.

    Example: ``SuiteItem(kind="steps", key=(3, "add", 4), prompt="Start with 3. Add 4. ...",
    answer="7", completion="3 + 4 = 7. The answer is 7.")``
    """

    kind: str  # the part of the suite that it belongs to
    key: tuple[Any, ...]  # the parameters that decide the answer, without names and decoration
    prompt: str
    answer: str  # what the suite's verifier takes for right
    completion: str = ""  # a worked solution to learn from; empty: there is none
    columns: Mapping[str, Any] = field(default_factory=dict)  # what the verifier reads beside


Draw = Callable[[random.Random], SuiteItem]  # one item of a kind


class Drawn(Protocol):
    """What the split reads of an item, of a suite or of another set."""

    @property
    def key(self) -> tuple[Any, ...]: ...

    @property
    def prompt(self) -> str: ...


Item = TypeVar("Item", bound=Drawn)
Kinds = Mapping[str, Callable[[random.Random], Item]]  # how an item of each kind is drawn


def is_held_out(key: tuple[Any, ...]) -> bool:
    """Return the side of the split that these parameters lie on."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELDOUT_ONE_IN == 0


def held_out_items(kinds: Kinds[Item], *, each: int) -> list[Item]:
    """Return ``each`` held-out items of every kind, the kinds in turn.

    No two of them have the same parameters.
    """
    rows = list(_in_turn(kinds, each, seed=_HELDOUT_SEED, held_out=True, distinct=_key))
    assert len(rows) == each * len(kinds), "a kind has too few parameters"
    return rows


def training_items(kinds: Kinds[Item], *, size: int, seed: int) -> list[Item]:
    """Return at most ``size`` items to train on, the kinds in turn; no two have the same prompt.

    A kind that has no more different ones gives fewer than the others.
    """
    each = -(-size // len(kinds))
    return list(_in_turn(kinds, each, seed=str(seed), held_out=False, distinct=_prompt))[:size]


def _in_turn(
    kinds: Kinds[Item],
    count: int,
    *,
    seed: str,
    held_out: bool,
    distinct: Callable[[Item], Any],
) -> Iterator[Item]:
    columns = [
        _first(name, draw, count, seed=seed, held_out=held_out, distinct=distinct)
        for name, draw in kinds.items()
    ]
    for row in zip_longest(*columns):
        yield from (item for item in row if item is not None)


def _first(
    name: str,
    draw: Callable[[random.Random], Item],
    count: int,
    *,
    seed: str,
    held_out: bool,
    distinct: Callable[[Item], Any],
) -> list[Item]:
    rng, found, vain = random.Random(f"{name}/{seed}"), dict[Any, Item](), 0
    while len(found) < count and vain < _MAX_VAIN_DRAWS:
        item = draw(rng)
        vain += 1
        if is_held_out(item.key) is held_out and distinct(item) not in found:
            found[distinct(item)], vain = item, 0
    return list(found.values())


def _key(item: Drawn) -> Any:
    return item.key


def _prompt(item: Drawn) -> Any:
    return item.prompt
