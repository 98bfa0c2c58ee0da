"""How much memory a process needs, and for what.

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
    kept: Mapping[str, float]  # allocated all the time
    phases: Mapping[str, float] = field(default_factory=dict)  # allocated one after the other
    # Pages of the host that every process with a part of this name maps: one set for all of them.
    shared: Mapping[str, float] = field(default_factory=dict)
    on_gpu: bool = False
    turn: str | None = None  # phase of a step outside of which only ``STAYS`` is allocated

    @property
    def peak_bytes(self) -> float:
        own = sum(self.kept.values()) + max(self.phases.values(), default=0)
        return own + sum(self.shared.values())

    @property
    def asleep_bytes(self) -> float:
        """What stays allocated while other processes have their turn."""
        if self.turn is None:
            return self.peak_bytes
        own = sum(_staying(self.kept)) + max(_staying(self.phases), default=0)
        return own + sum(self.shared.values())

    def largest(self) -> list[tuple[str, float]]:
        """Return the four largest parts of the peak, the largest first."""
        parts = {**self.kept, **self.shared}
        if self.phases:
            name = max(self.phases, key=lambda phase: self.phases[phase])
            parts[name] = self.phases[name]
        return sorted(parts.items(), key=lambda part: -part[1])[:4]


def _staying(parts: Mapping[str, float]) -> list[float]:
    return [size for name, size in parts.items() if name in STAYS]


def together_bytes(footprints: Sequence[Footprint]) -> float:
    """Return the peak of processes that share one memory and take turns."""
    awake: Counter[str | None] = Counter()
    shared: dict[str, float] = {}
    for each in footprints:
        awake[each.turn] += each.peak_bytes - each.asleep_bytes
        for name, size in each.shared.items():
            shared[name] = max(size, shared.get(name, 0.0))
    alone = sum(each.asleep_bytes - sum(each.shared.values()) for each in footprints)
    return alone + sum(shared.values()) + max(awake.values(), default=0)


def in_turn(footprints: Sequence[Footprint], turn: str) -> list[Footprint]:
    """Return the footprints of a role whose model is moved out of memory between its turns.

    From a GPU it moves to host memory that stays allocated for it; on a CPU it moves to a file.
    See ``training/parking.py``.
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
