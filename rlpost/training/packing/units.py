"""What is packed: units that are never split, and the items in them.

Owns these records. Refuses to own the layout (pack.py) and where the tokens come from.
Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Item:
    """One sequence behind its unit's prompt.

    ``number`` names it among all items of an optimizer batch, so that results find their way
    back. ``scored`` marks the tokens that the model's head reads, at least one.
    """

    number: int
    ids: tuple[int, ...]
    scored: np.ndarray  # bool, one entry for each id

    def __post_init__(self) -> None:
        assert self.scored.dtype == np.bool_ and self.scored.shape == (len(self.ids),), self.number
        assert self.scored.any(), f"item {self.number}: no token is scored"

    @property
    def num_scored(self) -> int:
        return int(np.count_nonzero(self.scored))


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Items that stay together in one micro-batch: a response, a pair, a document.

    They share the prompt, which no head reads. Units of one ``family`` with equal prompts share
    it too, where they fit into one block; without a family a unit shares with no other.
    ``name`` is how an error calls the unit.

    Example: ``Unit.sharing((5, 9), {0: (7, 2), 1: (8, 2)})`` is a pair of responses.
    """

    prompt: tuple[int, ...]
    items: tuple[Item, ...]
    family: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        assert self.prompt, "a prompt needs a token to predict the first token behind it from"
        assert self.items, "a unit without items"

    @classmethod
    def of(cls, ids: Sequence[int], *, scored: np.ndarray, number: int, name: str = "") -> "Unit":
        """Make a unit of one whole sequence; what precedes its first scored token is the prompt."""
        first = int(np.argmax(scored))
        assert len(ids) == len(scored) and scored.any() and first > 0, (len(ids), scored)
        item = Item(number=number, ids=tuple(ids[first:]), scored=scored[first:])
        return cls(prompt=tuple(ids[:first]), items=(item,), name=name)

    @classmethod
    def sharing(
        cls,
        prompt: Sequence[int],
        responses: dict[int, Sequence[int]],
        *,
        family: int | None = None,
        name: str = "",
    ) -> "Unit":
        """Make a unit of responses to one prompt, by item number; every token is scored."""
        items = tuple(
            Item(number=number, ids=tuple(ids), scored=np.ones(len(ids), dtype=bool))
            for number, ids in responses.items()
        )
        return cls(prompt=tuple(prompt), items=items, family=family, name=name)

    @property
    def item_tokens(self) -> int:
        return sum(len(item.ids) for item in self.items)
