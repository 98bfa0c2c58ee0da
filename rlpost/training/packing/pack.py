"""Units -> packed micro-batches for every rank.

Owns the way from units to the micro-batches of ranks, their layout, and the columns that are laid
out beside the tokens. Refuses to own how micro-batches are filled (filling.py), and to know what
the columns mean: weights, advantages and denominators are made before (algorithms/). Invariants:
every unit is in exactly one micro-batch; no micro-batch exceeds the token budget; every rank gets
equally many micro-batches; the same input gives the same output. numpy only.

Legend: T packed tokens, R scored tokens of one micro-batch, I items, U units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlpost.training.packing.batch import Block, MicroBatch
from rlpost.training.packing.bins import distribute
from rlpost.training.packing.drafts import Draft, Placed, drafts_of
from rlpost.training.packing.filling import Bins, flops_of
from rlpost.training.packing.filling import fill as filled
from rlpost.training.packing.units import Unit
from rlpost.training.packing.work import BY_TOKENS, ForwardWork

Batches = list[list[MicroBatch]]  # [rank][micro-batch]
ByItem = Mapping[int, np.ndarray]  # item number -> one value per scored token
Column = ByItem | np.ndarray | Sequence[float]  # by item for ``_R``, in order of units for ``_U``


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """One optimizer batch in micro-batches, ``batches[rank][micro-batch]``.

    Nothing in it changes, so what was made of one may be kept for as long as it exists.
    """

    batches: Batches

    def attach(self, **columns: Column | None) -> "Packed":
        """Return a copy that carries more columns.

        Args:
            columns: name -> values. For a name in ``_R`` or ``_RK`` they are given by item number,
                one, or K, per scored token (as ``by_item`` returns them, so they may come from
                another split);
                for a name in ``_U`` one per unit, in the order in which the units were packed.
                None attaches nothing. Dummies get zeros. Numbers become float32; bools and
                integers stay what they are.

        Example: ``packed.attach(ref_logprobs_R=scored.by_item(answers))``
        """
        present = {name: values for name, values in columns.items() if values is not None}

        def one(batch: MicroBatch) -> MicroBatch:
            laid_out = {name: _laid_out(batch, name, values) for name, values in present.items()}
            return replace(batch, columns={**batch.columns, **laid_out})

        return Packed(batches=[[one(batch) for batch in mine] for mine in self.batches])

    def by_item(self, answers: Sequence[Sequence[np.ndarray]]) -> dict[int, np.ndarray]:
        """Regroup one (R,) array per micro-batch, in the order of ``batches``, by item number.

        Returns:
            Item number -> values of its scored tokens, in order. Dummies are skipped.
        """
        found: dict[int, np.ndarray] = {}
        for mine, theirs in zip(self.batches, answers, strict=True):
            for batch, values_R in zip(mine, theirs, strict=True):
                assert len(values_R) == len(batch.item_R), (values_R.shape, batch)
                if not batch.is_dummy:
                    ends = np.cumsum(np.bincount(batch.item_R))[:-1]
                    parts = np.split(values_R, ends)
                    found |= zip(batch.number_I.tolist(), parts, strict=True)
        return found

    def column(self, name: str) -> dict[int, np.ndarray]:
        """Return a column in ``_R`` by item number."""
        return self.by_item([[batch.columns[name] for batch in mine] for mine in self.batches])

    @property
    def is_empty(self) -> bool:
        return not any(self.batches)

    def sizes(self) -> dict[str, float]:
        """Return how many tokens are packed, and how many carry a loss of their own or a unit's."""
        real = [batch for mine in self.batches for batch in mine if not batch.is_dummy]
        trained = sum(np.count_nonzero(_carries_loss(batch)) for batch in real)
        return {
            "perf/packed_tokens": float(sum(batch.num_tokens for batch in real)),
            "perf/trained_tokens": float(trained),
        }


def pack(
    units: Sequence[Unit],
    *,
    num_ranks: int,
    max_tokens: int,
    share_prompts: bool = True,
    fill: bool = True,
    work: ForwardWork = BY_TOKENS,
) -> Packed:
    """Pack one optimizer batch.

    Args:
        units: what to pack. Units of one family with equal prompts share a block where they fit.
        num_ranks: data-parallel ranks.
        max_tokens: token budget of a micro-batch, prompts included.
        share_prompts: compute a prompt once for all items in its block; otherwise each item
            carries its own copy.
        fill: put as many blocks into a micro-batch as fit; otherwise each block is a micro-batch
            of its own, and ranks work side by side on blocks of about the same work.
        work: of the model with the tokens; micro-batches and ranks are balanced by it.

    Returns:
        The micro-batches, without columns. Without units every rank's list is empty: the
        caller skips the optimizer step.

    Raises:
        UserError: a unit is longer than ``max_tokens``.
    """
    numbers = [item.number for unit in units for item in unit.items]
    assert len(set(numbers)) == len(numbers), "two items have the same number"
    drafts = drafts_of(
        units, num_ranks=num_ranks, max_tokens=max_tokens, share_prompts=share_prompts
    )
    if not drafts:
        return Packed(batches=[[] for _ in range(num_ranks)])
    bins = [[draft] for draft in drafts]
    if fill:
        bins = filled(drafts, num_ranks=num_ranks, max_tokens=max_tokens, work=work)
    return Packed(batches=_distribute(bins, num_ranks=num_ranks, work=work))


def one_batch(units: Sequence[Unit]) -> MicroBatch:
    """Lay units out in one micro-batch, in their order, each a block of its own."""
    return _batch(
        [
            Draft(placed=[Placed(place=place, unit=unit)], shared=True)
            for place, unit in enumerate(units)
        ]
    )


def _distribute(bins: Bins, *, num_ranks: int, work: ForwardWork) -> Batches:
    """Micro-batches -> ranks, with dummies where a rank has one fewer."""
    bins_of_rank = distribute([flops_of(each, work) for each in bins], num_ranks=num_ranks)
    num_rounds = max(len(mine) for mine in bins_of_rank)
    result: Batches = []
    for mine in bins_of_rank:
        batches = [_batch(bins[index]) for index in mine]
        result.append(batches + [dummy_batch() for _ in range(num_rounds - len(batches))])
    return result


def _batch(drafts: list[Draft]) -> MicroBatch:
    token_ids: list[int] = []
    positions: list[np.ndarray] = []
    reads: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    blocks: list[Block] = []
    for draft in drafts:
        prompt = draft.placed[0].unit.prompt
        for items in draft.blocks():
            start, end = len(token_ids), len(token_ids) + len(prompt)
            token_ids += prompt
            positions.append(np.arange(len(prompt)))
            ranges: list[tuple[int, int]] = []
            for item in items:
                first, length = len(token_ids), len(item.ids)
                token_ids += item.ids
                positions.append(len(prompt) + np.arange(length))
                own = np.arange(first, first + length)
                read = np.concatenate([[end - 1], own[:-1]])
                reads.append(read[item.scored])
                tokens.append(own[item.scored])
                ranges.append((first, first + length))
            blocks.append(Block(prompt=(start, end), responses=tuple(ranges)))
    placed = [each for draft in drafts for each in draft.placed]
    items = [item for each in placed for item in each.unit.items]
    counts = [len(each.unit.items) for each in placed]
    return MicroBatch(
        token_ids_T=np.array(token_ids, dtype=np.int64),
        position_ids_T=np.concatenate(positions).astype(np.int64),
        blocks=tuple(blocks),
        read_R=np.concatenate(reads).astype(np.int64),
        token_R=np.concatenate(tokens).astype(np.int64),
        item_R=np.repeat(np.arange(len(items)), [item.num_scored for item in items]),
        unit_I=np.repeat(np.arange(len(placed)), counts),
        number_I=np.array([item.number for item in items], dtype=np.int64),
        number_U=np.array([each.place for each in placed], dtype=np.int64),
    )


def dummy_batch() -> MicroBatch:
    """Two tokens without a loss: keeps a rank in step with the others' collectives."""
    zero = np.zeros(1, dtype=np.int64)
    return MicroBatch(
        token_ids_T=np.zeros(2, dtype=np.int64),
        position_ids_T=np.arange(2, dtype=np.int64),
        blocks=(Block(prompt=(0, 1), responses=((1, 2),)),),
        read_R=zero,
        token_R=zero + 1,
        item_R=zero,
        unit_I=zero,
        number_I=zero - 1,
        number_U=zero - 1,
        is_dummy=True,
    )


def _carries_loss(batch: MicroBatch) -> np.ndarray:
    """Return which scored tokens have a weight above 0, or are of a unit that has."""
    carries_R = np.zeros(len(batch.target_R), dtype=np.bool_)
    if "weight_R" in batch.columns:
        carries_R |= batch.columns["weight_R"] > 0
    if "weight_U" in batch.columns:
        carries_R |= batch.columns["weight_U"][batch.unit_I[batch.item_R]] > 0
    return carries_R


def _laid_out(batch: MicroBatch, name: str, values: Column) -> np.ndarray:
    """Put values in the order of the batch's scored tokens or units."""
    if name.endswith("_U"):
        column = np.asarray(values)
        column = np.zeros(1, column.dtype) if batch.is_dummy else column[batch.number_U]
    else:
        assert isinstance(values, Mapping), f"{name} must be given by item number"
        if batch.is_dummy:
            like = np.asarray(next(iter(values.values())))
            column = np.zeros((1, *like.shape[1:]), like.dtype)
        else:
            column = np.concatenate([values[number] for number in batch.number_I.tolist()])
    kept = np.bool_ if column.dtype == np.bool_ else np.float32
    return column.astype(np.int64 if np.issubdtype(column.dtype, np.integer) else kept)
