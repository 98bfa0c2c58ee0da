"""Pairs and judged steps -> one packed optimizer batch with its weights.

Owns what is scored of an example: the end-of-turn token of a response, or the end of each step.
Refuses to own the layout (training/packing/). Invariants: both responses of a pair share one block,
whose prompt is computed once; weights are made over the whole optimizer batch before it is split.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlpost.data.conversation.preferences import shared_prompt
from rlpost.data.example import Example
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.units import Item, Unit
from rlpost.training.packing.work import BY_TOKENS, ForwardWork


@dataclass(frozen=True, kw_only=True)
class PairPacker:
    """Packs pairs: of each response the last trained token is scored, and what follows it left out.

    Example: ``PairPacker(num_ranks=2, max_tokens=4096)(mixture.take(64))``
    """

    num_ranks: int
    max_tokens: int  # of a micro-batch
    fill: bool = True  # several pairs share a micro-batch
    work: ForwardWork = BY_TOKENS  # what ranks and micro-batches are balanced by
    has_margins: bool = False

    def __call__(self, examples: Sequence[Example]) -> Packed:
        """Pack an optimizer batch; examples keep their numbers, 0 to 2n - 1, in ``by_item``.

        Args:
            examples: of each pair the chosen one, whose label is the margin, and the rejected one.

        Raises:
            UserError: a pair is longer than ``max_tokens``.
        """
        pairs = pairs_of(examples)
        packed = pack(
            [pair_unit(pair, number=2 * place) for place, pair in enumerate(pairs)],
            num_ranks=self.num_ranks,
            max_tokens=self.max_tokens,
            fill=self.fill,
            work=self.work,
        )
        margin_U = [float(chosen.labels[0]) for chosen, _ in pairs] if self.has_margins else None
        return packed.attach(
            weight_U=[1 / len(pairs)] * len(pairs),
            margin_U=margin_U,
            chosen_tokens_U=[float(response_tokens(chosen)) for chosen, _ in pairs],
            rejected_tokens_U=[float(response_tokens(rejected)) for _, rejected in pairs],
        )


@dataclass(frozen=True, kw_only=True)
class StepPacker:
    """Packs solutions whose steps are judged; ``examples`` packs them without labels.

    Example: ``StepPacker(examples=ExamplePacker(num_ranks=2, max_tokens=4096))``
    """

    examples: ExamplePacker

    def __call__(self, examples: Sequence[Example]) -> Packed:
        """Pack an optimizer batch; see ``ExamplePacker``. Every step weighs the same."""
        packed = self.examples(examples)
        return packed.attach(labels_R={n: each.labels for n, each in enumerate(examples)})


def pairs_of(examples: Sequence[Example]) -> list[tuple[Example, Example]]:
    """Return the chosen and the rejected example of each row."""
    return list(zip(examples[::2], examples[1::2], strict=True))


def pair_unit(pair: tuple[Example, Example], *, number: int) -> Unit:
    """Return both responses behind their prompt, as items ``number`` and the next."""
    start = shared_prompt(pair)
    items = tuple(_item(each, start, number + place) for place, each in enumerate(pair))
    prompt = tuple(pair[0].ids[:start].tolist())
    return Unit(prompt=prompt, items=items, name=pair[0].address)


def scored_place(example: Example) -> int:
    """Return the place at which a response is scored: that of its last trained token."""
    return int(np.flatnonzero(example.trained)[-1])


def response_tokens(example: Example) -> int:
    """Return the tokens of a response, its end-of-turn token included."""
    return scored_place(example) + 1 - int(np.argmax(example.trained))


def _item(example: Example, start: int, number: int) -> Item:
    end = scored_place(example) + 1
    scored = np.zeros(end - start, dtype=bool)
    scored[-1] = True
    return Item(number=number, ids=tuple(example.ids[start:end].tolist()), scored=scored)
