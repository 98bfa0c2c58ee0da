"""How many groups one generator works on at once.

Owns the number of permits of one engine: it grows by a constant while memory is free and is
halved when the engine preempts, which means that it discarded work for lack of memory. Refuses
to own the waiting (rollout/dispatch.py). Invariants: the limit stays between ``lowest`` and
``highest``; permits in use are never taken back. Pure.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Load:
    """What an engine reports about its load.

    Example: ``Load(kv_use=0.4, num_preempted=0)``
    """

    kv_use: float  # share of the KV cache in use, in [0, 1]
    num_preempted: int  # since the engine started


class Permits:
    """Example::

    permits = Permits(highest=128)
    permits.observe(Load(kv_use=0.97, num_preempted=3))
    assert permits.limit == 64
    """

    GROW_BELOW = 0.8  # share of the KV cache
    STEP = 4  # permits

    def __init__(self, *, highest: int, lowest: int = 1) -> None:
        self._highest, self._lowest = highest, lowest
        self.limit = highest
        self.used = 0
        self._num_preempted = 0

    @property
    def free(self) -> int:
        return self.limit - self.used

    def take(self) -> None:
        self.used += 1

    def give_back(self) -> None:
        assert self.used > 0
        self.used -= 1

    def observe(self, load: Load) -> None:
        """Adapt the limit to what the engine reports."""
        if load.num_preempted > self._num_preempted:
            self.limit = max(self._lowest, self.limit // 2)
        elif load.kv_use < self.GROW_BELOW:
            self.limit = min(self._highest, self.limit + self.STEP)
        self._num_preempted = load.num_preempted
