"""What one process needs in memory, and for what.

Owns the sums. Example::

    Footprint(process="trainer rank 0", kept={"weights": 538e6}, phases={"update": 1e9})
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

STAYS = frozenset({"libraries", "CUDA context", "copy while asleep", "copy for a checkpoint"})


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of one process, on the host or on one device."""

    process: str
    kept: Mapping[str, float]  # there all the time
    phases: Mapping[str, float] = field(default_factory=dict)  # one after the other
    on_gpu: bool = False
    turn: str | None = None  # part of a step outside of which only ``STAYS`` is there

    @property
    def peak_bytes(self) -> float:
        return sum(self.kept.values()) + max(self.phases.values(), default=0)

    @property
    def asleep_bytes(self) -> float:
        """What is there while others have their turn."""
        if self.turn is None:
            return self.peak_bytes
        return sum(_staying(self.kept)) + max(_staying(self.phases), default=0)

    def largest(self, count: int = 4) -> list[tuple[str, float]]:
        """Return what the peak is made of, the largest first."""
        parts = dict(self.kept)
        if self.phases:
            name = max(self.phases, key=lambda phase: self.phases[phase])
            parts[name] = self.phases[name]
        return sorted(parts.items(), key=lambda part: -part[1])[:count]


def _staying(parts: Mapping[str, float]) -> list[float]:
    return [size for name, size in parts.items() if name in STAYS]


def together_bytes(footprints: Sequence[Footprint]) -> float:
    """Return the peak of processes that share one memory, each in its turn."""
    awake: Counter[str | None] = Counter()
    for each in footprints:
        awake[each.turn] += each.peak_bytes - each.asleep_bytes
    return sum(each.asleep_bytes for each in footprints) + max(awake.values(), default=0)


def in_turn(footprints: Sequence[Footprint], turn: str) -> list[Footprint]:
    """Return what a role needs whose model leaves memory outside of its turn.

    From a GPU it goes to the host, where its place is kept; from the host to a file. See
    ``training/parking.py``.
    """
    if not any(each.on_gpu for each in footprints):
        return [replace(each, turn=turn) for each in footprints]
    moved = Counter[str]()
    for each in footprints:
        if each.on_gpu:
            model = sum(size for name, size in each.kept.items() if name not in STAYS)
            moved[each.process] += model
    return [
        replace(each, turn=turn)
        if each.on_gpu
        else replace(each, kept={**each.kept, "copy while asleep": moved[each.process]})
        for each in footprints
    ]
