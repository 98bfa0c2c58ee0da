"""Placing items of known size into bins.

Owns the packing arithmetic on sizes alone. Refuses to know what an item is. Invariants:
every item is in exactly one bin, no bin exceeds its capacity, and the same sizes give the
same answer (ties go to the earlier index).
"""

import bisect
import heapq
from collections.abc import Sequence


def best_fit_decreasing(sizes: Sequence[int], *, capacity: int) -> list[list[int]]:
    """Pack indices of ``sizes`` into as few bins as the heuristic finds.

    Largest first, each into the fullest bin that still takes it (at most 11/9 of the
    optimum plus a constant). Every size must be at most ``capacity``.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free capacity, bin), ascending
    for index in _largest_first(sizes):
        size = sizes[index]
        assert size <= capacity, (size, capacity)
        place = bisect.bisect_left(room, (size, -1))
        if place == len(room):
            bins.append([index])
            bisect.insort(room, (capacity - size, len(bins) - 1))
        else:
            free, chosen = room.pop(place)
            bins[chosen].append(index)
            bisect.insort(room, (free - size, chosen))
    return bins


def spread(
    sizes: Sequence[int], *, num_bins: int, capacity: int, loads: Sequence[int] | None = None
) -> list[list[int]] | None:
    """Distribute indices over ``num_bins`` bins of nearly equal load; ``loads`` default to sizes.

    Largest load first, each into the bin of the least load that has room. Returns None when none
    has; bins stay empty when there are fewer items than bins.
    """
    loads = sizes if loads is None else loads
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    room = [capacity] * num_bins
    lightest = [(0, b) for b in range(num_bins)]
    for index in _largest_first(loads):
        full = []
        while lightest and room[lightest[0][1]] < sizes[index]:
            full.append(heapq.heappop(lightest))
        if not lightest:
            return None
        load, chosen = heapq.heappop(lightest)
        bins[chosen].append(index)
        room[chosen] -= sizes[index]
        for each in [*full, (load + loads[index], chosen)]:
            heapq.heappush(lightest, each)
    return bins


def distribute(loads: Sequence[int], *, num_ranks: int) -> list[list[int]]:
    """Distribute indices of ``loads`` over ``num_ranks`` ranks, heaviest first.

    Each round gives every rank one item of about the same size, so that ranks that work in
    lock-step wait little for each other; the rank with the lowest total takes the heaviest item
    of a round, so that totals stay even. Numbers of items differ by at most one.
    """
    items_of_rank: list[list[int]] = [[] for _ in range(num_ranks)]
    totals = [0] * num_ranks
    order = _largest_first(loads)
    for start in range(0, len(order), num_ranks):
        lightest_first = sorted(range(num_ranks), key=lambda rank: (totals[rank], rank))
        round_items = order[start : start + num_ranks]
        for rank, index in zip(lightest_first, round_items, strict=False):
            items_of_rank[rank].append(index)
            totals[rank] += loads[index]
    return items_of_rank


def _largest_first(sizes: Sequence[int]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
