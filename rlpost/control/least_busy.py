"""Which of many has the least to do, found without looking at all of them.

Owns the order of the candidates. Refuses to own who is a candidate and what they do. Invariant:
``first`` names the candidate with the fewest, of several the one that was listed first, as
``min(candidates, key=fewest)`` would. Pure.

A change puts one entry into a heap and leaves older ones there, which are dropped when they come
up, or all together when there are too many: a change and a choice cost O(log n).
"""

import heapq
from collections.abc import Sequence


class LeastBusy:
    """Example::

    candidates = LeastBusy()
    candidates.begin(["a", "b"])
    candidates.offer("a", 2)
    candidates.offer("b", 1)
    assert candidates.first() == "b"
    """

    def __init__(self) -> None:
        self._place: dict[str, int] = {}  # in the list
        self._has: dict[str, int] = {}  # of those that are candidates
        self._heap: list[tuple[int, int, str]] = []  # (has, place, name), some of them outdated

    def begin(self, names: Sequence[str]) -> None:
        """Begin anew: only these may be candidates, and none of them is until it is offered."""
        self._place = {name: place for place, name in enumerate(names)}
        self._has, self._heap = {}, []

    def offer(self, name: str, has: int) -> None:
        """Make it a candidate that has so much to do, if it is listed."""
        if name not in self._place or self._has.get(name) == has:
            return
        self._has[name] = has
        heapq.heappush(self._heap, (has, self._place[name], name))
        if len(self._heap) > 4 * len(self._place) + 16:
            self._heap = [(has, self._place[name], name) for name, has in self._has.items()]
            heapq.heapify(self._heap)

    def withdraw(self, name: str) -> None:
        """Let it be no candidate until it is offered again."""
        self._has.pop(name, None)

    def first(self) -> str | None:
        """Return the candidate with the least to do; None: there is none."""
        while self._heap:
            has, _, name = self._heap[0]
            if self._has.get(name) == has:
                return name
            heapq.heappop(self._heap)
        return None
