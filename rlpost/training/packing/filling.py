"""Drafts -> micro-batches: few, and of equal work.

Owns which drafts share a micro-batch, and whether units of one prompt are divided to fill it.
Refuses to own which rank gets what (bins.py) and the layout (pack.py). Invariants: no micro-batch
exceeds the token budget, nothing is lost, and the same input gives the same output. Imports no
torch.

Two ways are tried: every draft whole, and drafts divided where a micro-batch has room, at the price
of a prompt that is computed twice. Ranks work in lock-step, so a way costs the heaviest micro-batch
of each round, and what a round costs beside its tokens. The cheaper way is taken.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlpost.training.packing.bins import best_fit_decreasing, spread
from rlpost.training.packing.drafts import Draft
from rlpost.training.packing.work import ForwardWork

Bins = list[list[Draft]]

# Tokens whose work takes as long as what a micro-batch costs beside its tokens. On an H100 a model
# of 1.2 billion parameters took 25 us a token and 20 to 40 ms a micro-batch, that is 800 to 1600
# tokens; on a larger model or a CPU they are fewer.
ROUND_TOKENS = 512
_NARROWINGS = 6  # of the limit that evens poured micro-batches: to 1/64 of its range


def fill(drafts: Sequence[Draft], *, num_ranks: int, max_tokens: int, work: ForwardWork) -> Bins:
    """Return micro-batches for ``num_ranks`` ranks, each within ``max_tokens``."""
    found = [_whole(drafts, num_ranks, max_tokens, work)]
    if any(draft.can_divide for draft in drafts):
        found.append(_divided(drafts, num_ranks, max_tokens, work))
    return min(found, key=lambda bins: lock_step_flops(bins, num_ranks=num_ranks, work=work))


def lock_step_flops(bins: Bins, *, num_ranks: int, work: ForwardWork) -> float:
    """Return the operations that a rank waits for: the heaviest of each round, and the rounds."""
    loads = sorted((flops_of(each, work) for each in bins), reverse=True)
    tokens = sum(draft.size for each in bins for draft in each)
    of_rounds = math.ceil(len(loads) / num_ranks) * ROUND_TOKENS * sum(loads) / tokens
    return sum(loads[::num_ranks]) + of_rounds


def flops_of(drafts: Sequence[Draft], work: ForwardWork) -> int:
    """Return the operations of a micro-batch's forward pass."""
    return sum(draft.flops(work) for draft in drafts)


def _whole(drafts: Sequence[Draft], num_ranks: int, max_tokens: int, work: ForwardWork) -> Bins:
    """Divide no draft: as few micro-batches as were found, then even ones within their rounds."""
    sizes = [draft.size for draft in drafts]
    flops = [draft.flops(work) for draft in drafts]
    fewest = best_fit_decreasing(sizes, capacity=max_tokens)
    num_bins = -(-len(fewest) // num_ranks) * num_ranks
    # Even loads within the fewest rounds beat full micro-batches and dummies.
    even = spread(sizes, num_bins=num_bins, capacity=max_tokens, loads=flops)
    return [[drafts[i] for i in sorted(places)] for places in even or fewest if places]


def _divided(drafts: Sequence[Draft], num_ranks: int, max_tokens: int, work: ForwardWork) -> Bins:
    """Divide drafts where that fills a micro-batch; the limit on work is the lowest that fits."""
    parts = sorted((_Part.of(draft, work) for draft in drafts), key=lambda part: -part.flops)
    high = float(sum(part.flops for part in parts))
    best = _pour(parts, max_tokens=max_tokens, limit=high)
    num_bins = -(-len(best) // num_ranks) * num_ranks
    low = high / num_bins
    high = float(max(flops_of(each, work) for each in best))
    for _ in range(_NARROWINGS):
        limit = (low + high) / 2
        found = _pour(parts, max_tokens=max_tokens, limit=limit)
        if len(found) <= num_bins:
            best, high = found, limit
        else:
            low = limit
    return best


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Units of a draft, those of the most tokens first, and what they and their prompt need."""

    draft: Draft
    places: Sequence[int]
    prompt: tuple[int, int]  # tokens, operations
    units: Sequence[tuple[int, int]]  # the same of every unit of the draft

    @classmethod
    def of(cls, draft: Draft, work: ForwardWork) -> "_Part":
        alone = [draft.of([i]) for i in range(len(draft.placed))]
        tokens = [each.unit.item_tokens for each in draft.placed]
        prompt_tokens = alone[0].size - tokens[0]
        flops = [each.flops(work) for each in alone]
        # Without a prompt of their own the units' operations add up to those of the draft.
        spare = len(alone) - 1
        prompt_flops = (sum(flops) - draft.flops(work)) // spare if spare else 0
        return cls(
            draft=draft,
            places=sorted(range(len(alone)), key=lambda i: (-tokens[i], i)),
            prompt=(prompt_tokens, prompt_flops),
            units=[(t, f - prompt_flops) for t, f in zip(tokens, flops, strict=True)],
        )

    @property
    def tokens(self) -> int:
        return self.prompt[0] + sum(self.units[i][0] for i in self.places)

    @property
    def flops(self) -> int:
        return self.prompt[1] + sum(self.units[i][1] for i in self.places)


def _pour(parts: Sequence[_Part], *, max_tokens: int, limit: float) -> Bins:
    """Put drafts into micro-batches of at most ``limit`` operations, if one unit has no more.

    A draft goes whole into the fullest micro-batch that takes it; else the emptiest takes as many
    of its units as fit, and the rest goes on.
    """
    poured = _Poured(max_tokens=max_tokens, limit=limit)
    for part in parts:
        rest: _Part | None = part
        while rest is not None:
            rest = poured.take(rest)
    return poured.bins


class _Poured:
    """Micro-batches that are being filled, ordered by the share of tokens or work that is free."""

    def __init__(self, *, max_tokens: int, limit: float) -> None:
        self._max_tokens, self._limit = max_tokens, limit
        self.bins: Bins = []
        self._used: list[tuple[int, int]] = []  # tokens and operations, by micro-batch
        self._free: list[tuple[float, int]] = []  # (share, micro-batch), ascending

    def take(self, part: _Part) -> _Part | None:
        """Put a part, or some of it, into a micro-batch; returns what is left."""
        place = bisect.bisect_left(self._free, (self._share(part.tokens, part.flops), -1))
        if place < len(self._free):
            return self._put(self._free.pop(place)[1], part, part.places)
        if self._free and (some := self._fitting(part, self._free[-1][0])):
            return self._put(self._free.pop()[1], part, some)
        self.bins.append([])
        self._used.append((0, 0))
        # One unit goes into an empty micro-batch, however much work it is.
        return self._put(
            len(self.bins) - 1, part, self._fitting(part, 1.0, always=True) or part.places[:1]
        )

    def _fitting(self, part: _Part, free: float, *, always: bool = False) -> list[int]:
        """Return the units that fit; none if they have fewer tokens than their prompt."""
        tokens, flops = part.prompt
        chosen = []
        for i in part.places:
            if self._share(tokens + part.units[i][0], flops + part.units[i][1]) <= free:
                tokens, flops = tokens + part.units[i][0], flops + part.units[i][1]
                chosen.append(i)
        return chosen if always or tokens >= 2 * part.prompt[0] else []

    def _put(self, number: int, part: _Part, places: Sequence[int]) -> _Part | None:
        put = replace(part, places=places)
        self.bins[number].append(part.draft.of(places))
        tokens, flops = self._used[number]
        self._used[number] = used = (tokens + put.tokens, flops + put.flops)
        assert used[0] <= self._max_tokens, (used, self._max_tokens)
        bisect.insort(self._free, (1 - self._share(*used), number))
        rest = [i for i in part.places if i not in set(places)]
        return replace(part, places=rest) if rest else None

    def _share(self, tokens: int, flops: int) -> float:
        return max(tokens / self._max_tokens, flops / self._limit)
