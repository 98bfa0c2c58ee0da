"""Pairs or judged completions -> one packed optimizer batch with its weights.

Owns which examples are one unit, and the columns that do not depend on a model. Refuses to own the
layout (training/packing/) and what is made of the columns (algorithms/preference/). Invariants: the
prompt of a pair is packed once; weights are made over the whole optimizer batch before it is split,
so they hold denominators of all micro-batches and ranks.

Legend: R trained tokens, U units: pairs, or judged completions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlpost.data.conversation.preferences import shared_prompt
from rlpost.data.example import Example
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.units import Item, Unit
from rlpost.training.packing.work import BY_TOKENS, ForwardWork

_FAMILY = 0  # units with equal prompts share them, too


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Denominators of what is averaged together: an optimizer batch, or a held-out source."""

    units: int
    chosen_tokens: int


@dataclass(frozen=True, kw_only=True)
class ResponsePacker:
    """Packs the examples of rows as a stage's options say.

    Example: ``ResponsePacker(num_ranks=2, max_tokens=4096, judged=False)(rows.take())``
    """

    num_ranks: int
    max_tokens: int  # of a micro-batch
    judged: bool  # each example is a unit; else each two are a pair, the chosen one first
    trains_chosen: bool = False  # the objective adds the chosen completions' NLL
    fill: bool = True  # several units share a micro-batch
    work: ForwardWork = BY_TOKENS  # what ranks and micro-batches are balanced by
    share_prompts: bool = True  # else each completion has a prompt of its own

    def totals(self, examples: Sequence[Example]) -> Totals:
        """Return the denominators of ``examples``, which are averaged together."""
        size = 1 if self.judged else 2
        chosen = 0 if self.judged else sum(int(each.trained.sum()) for each in examples[::2])
        return Totals(units=len(examples) // size, chosen_tokens=chosen)

    def __call__(self, examples: Sequence[Example], *, totals: Totals | None = None) -> Packed:
        """Pack examples, which keep their places as numbers in ``by_item``.

        Args:
            examples: an optimizer batch, or a part of what is averaged together.
            totals: the denominators of all that is averaged; None: those of ``examples``.

        Raises:
            UserError: a unit is longer than ``max_tokens``.
        """
        totals = totals or self.totals(examples)
        packed = self.to_score(examples)
        units = len(examples) // (1 if self.judged else 2)
        labels = np.array([each.labels[0] for each in examples]) if self.judged else None
        return packed.attach(
            weight_U=np.full(units, 1 / totals.units),
            label_U=labels,
            weight_R=self._nll_weights(examples, totals) if self.trains_chosen else None,
        )

    def to_score(self, examples: Sequence[Example]) -> Packed:
        """Pack examples without columns."""
        size = 1 if self.judged else 2
        units = [
            _unit(examples[start : start + size], start) for start in range(0, len(examples), size)
        ]
        return pack(
            units,
            num_ranks=self.num_ranks,
            max_tokens=self.max_tokens,
            share_prompts=self.share_prompts,
            fill=self.fill,
            work=self.work,
        )

    def _nll_weights(self, examples: Sequence[Example], totals: Totals) -> dict[int, np.ndarray]:
        assert not self.judged, "the NLL is that of chosen completions of pairs"
        return {
            number: np.full(
                int(each.trained.sum()), 0.0 if number % 2 else 1 / totals.chosen_tokens
            )
            for number, each in enumerate(examples)
        }


def _unit(examples: Sequence[Example], first: int) -> Unit:
    """Make a unit of the examples of a pair, or of one; ``first`` is its first item's number."""
    start = shared_prompt(examples)
    return Unit(
        prompt=tuple(examples[0].ids[:start].tolist()),
        items=tuple(
            Item(
                number=first + place,
                ids=tuple(each.ids[start:].tolist()),
                scored=each.trained[start:],
            )
            for place, each in enumerate(examples)
        ),
        family=_FAMILY,
        name=examples[0].address,
    )
