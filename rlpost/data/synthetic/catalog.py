"""Which synthetic sets there are, and their items.

Owns the lists. Refuses to own items (the sets) and rows (data/sources/synthetic.py).
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from rlpost.data.synthetic.consistency import CONSISTENCY
from rlpost.data.synthetic.item import PairItem, StepsItem
from rlpost.data.synthetic.lowercase import LOWERCASE
from rlpost.data.synthetic.relations import RELATIONS
from rlpost.data.synthetic.solutions import SOLUTIONS
from rlpost.errors import UserError
from rlpost.evaluation.suites.item import Item, Kinds, held_out_items, training_items


@dataclass(frozen=True, kw_only=True)
class SyntheticSet(Generic[Item]):
    """One set. Example: ``PAIR_SETS["consistency"].held_out()[0].chosen``"""

    name: str
    help: str  # one line
    kinds: Kinds[Item]
    each: int  # held-out items of each kind

    def held_out(self) -> Sequence[Item]:
        """Return the held-out items, the kinds in turn; they are the same for every seed."""
        return held_out_items(self.kinds, each=self.each)

    def training(self, size: int, seed: int) -> Sequence[Item]:
        """Return at most ``size`` items to train on, the kinds in turn."""
        return training_items(self.kinds, size=size, seed=seed)


PAIR_SETS: Mapping[str, SyntheticSet[PairItem]] = {
    each.name: each
    for each in (
        SyntheticSet(
            name="consistency",
            help="answers that agree with the prompt or contradict it, for reward models",
            kinds=CONSISTENCY,
            each=80,
        ),
        SyntheticSet(
            name="relations",
            help="answers of the same words that give each thing its value or the other's",
            kinds=RELATIONS,
            each=80,
        ),
        SyntheticSet(
            name="lowercase",
            help="answers in small letters, or with capitals: a behaviour, for preference losses",
            kinds=LOWERCASE,
            each=100,
        ),
    )
}
STEP_SETS: Mapping[str, SyntheticSet[StepsItem]] = {
    each.name: each
    for each in (
        SyntheticSet(
            name="solutions",
            help="steps of solutions, right and wrong, for process reward models",
            kinds=SOLUTIONS,
            each=100,
        ),
    )
}


def find_set(
    sets: Mapping[str, SyntheticSet[Item]], name: str, *, field: str
) -> SyntheticSet[Item]:
    """Return the set of this name.

    Raises:
        UserError: there is none; lists those that there are.
    """
    if name in sets:
        return sets[name]
    close = difflib.get_close_matches(name, sets, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UserError(f"{field} must be one of {', '.join(sets)}, got {name!a:.100}{hint}")
