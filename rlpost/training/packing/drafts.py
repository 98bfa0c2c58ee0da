"""What goes into a micro-batch side by side: units of one prompt, and how they are divided.

Owns which units share a prompt, and how those that do are divided over several micro-batches, each
of which repeats the prompt. Refuses to own which micro-batch they go into (filling.py) and the
layout (pack.py). Invariant: a unit is whole, and is in exactly one draft. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlpost.errors import UserError
from rlpost.training.packing.bins import best_fit_decreasing, spread
from rlpost.training.packing.units import Item, Unit
from rlpost.training.packing.work import ForwardWork, pairs_behind, triangle


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A unit and its place in what is packed."""

    place: int
    unit: Unit


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Units of one prompt that go into one micro-batch side by side."""

    placed: list[Placed]
    shared: bool  # they are one block; else each item is one

    @property
    def size(self) -> int:
        """Packed tokens, prompts included."""
        return self._prompt * self._copies + sum(each.unit.item_tokens for each in self.placed)

    @property
    def can_divide(self) -> bool:
        return len(self.placed) > 1

    def flops(self, work: ForwardWork) -> int:
        """Return the operations of a forward pass over it."""
        items = [item for each in self.placed for item in each.unit.items]
        pairs = triangle(self._prompt) * self._copies
        return work.flops(
            tokens=self.size,
            scored=sum(item.num_scored for item in items),
            pairs=pairs + sum(pairs_behind(self._prompt, len(item.ids)) for item in items),
        )

    def blocks(self) -> list[list[Item]]:
        """Return the items of each block."""
        items = [item for each in self.placed for item in each.unit.items]
        return [items] if self.shared else [[item] for item in items]

    def of(self, places: Sequence[int]) -> "Draft":
        """Return the same with some of its units alone, in their order."""
        return replace(self, placed=[self.placed[i] for i in sorted(places)])

    @property
    def _prompt(self) -> int:
        return len(self.placed[0].unit.prompt)

    @property
    def _copies(self) -> int:
        return 1 if self.shared else sum(len(each.unit.items) for each in self.placed)


def drafts_of(
    units: Sequence[Unit], *, num_ranks: int, max_tokens: int, share_prompts: bool
) -> list[Draft]:
    """Put units that share a prompt together, as far as they fit and no rank idles for it.

    Raises:
        UserError: a unit is longer than ``max_tokens``.
    """
    sharing: dict[tuple[object, ...], list[Placed]] = {}
    for place, unit in enumerate(units):
        placed = Placed(place=place, unit=unit)
        sharing.setdefault(_shared_prompt(placed), []).append(placed)
    drafts: list[Draft] = []
    for together in sharing.values():
        drafts += _split_to_budget(together, max_tokens, share_prompts)
    return _split_for_ranks(drafts, num_ranks)


def _shared_prompt(placed: Placed) -> tuple[object, ...]:
    """Return what is equal for units that may share a block."""
    unit = placed.unit
    return ("alone", placed.place) if unit.family is None else (unit.family, unit.prompt)


def _split_to_budget(placed: list[Placed], max_tokens: int, share_prompts: bool) -> list[Draft]:
    """One draft if the units fit together and share, else several, each repeating the prompt."""
    alone = [Draft(placed=[each], shared=share_prompts) for each in placed]
    for draft in alone:
        _check_size(draft, max_tokens)
    if not share_prompts:
        return alone
    room = max_tokens - len(placed[0].unit.prompt)
    sizes = [each.unit.item_tokens for each in placed]
    whole = Draft(placed=placed, shared=True)
    return [whole.of(mine) for mine in best_fit_decreasing(sizes, capacity=room)]


def _check_size(draft: Draft, max_tokens: int) -> None:
    unit, size = draft.placed[0].unit, draft.size
    if size > max_tokens:
        raise UserError(
            f"trainer.max_tokens_per_micro_batch must hold a prompt and one response, got "
            f"{max_tokens}: {unit.name or f'unit {draft.placed[0].place}'} has "
            f"{size - unit.item_tokens} + {unit.item_tokens} tokens; raise it to at least {size} "
            "or lower the response limit"
        )


def _split_for_ranks(drafts: list[Draft], num_ranks: int) -> list[Draft]:
    """Halve drafts that are larger than one rank's fair share; else ranks would idle."""
    drafts = list(drafts)
    while num_ranks > 1:
        fair_share = sum(draft.size for draft in drafts) / num_ranks
        heavy = [
            d for d, draft in enumerate(drafts) if draft.can_divide and draft.size > fair_share
        ]
        if not heavy:
            break
        for d in reversed(heavy):
            sizes = [each.unit.item_tokens for each in drafts[d].placed]
            halves = spread(sizes, num_bins=2, capacity=sum(sizes))
            assert halves is not None
            drafts[d : d + 1] = [drafts[d].of(half) for half in halves]
    return drafts
