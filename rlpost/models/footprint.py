"""What one process needs in memory, and for what.

Owns the sum. Example::

    Footprint(process="trainer rank 0", kept={"weights": 538e6}, phases={"update": 1e9})
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of one process, on the host or on one device."""

    process: str
    kept: Mapping[str, float]  # there all the time
    phases: Mapping[str, float] = field(default_factory=dict)  # one after the other
    on_gpu: bool = False

    @property
    def peak_bytes(self) -> float:
        return sum(self.kept.values()) + max(self.phases.values(), default=0)

    def largest(self, count: int = 4) -> list[tuple[str, float]]:
        """Return what the peak is made of, the largest first."""
        parts = dict(self.kept)
        if self.phases:
            name = max(self.phases, key=lambda phase: self.phases[phase])
            parts[name] = self.phases[name]
        return sorted(parts.items(), key=lambda part: -part[1])[:count]
