"""What a checkpoint holds of generation: finished groups, versions, and how far they may lag.

Refuses to own the format of a group (ready_groups.py). Invariant: numbers of versions that
generators of this process have seen are never used again, whatever was saved.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rlpost.control.staleness import Staleness
from rlpost.rollout.producer import Producer
from rlpost.stages.sampling.ready_groups import from_records, to_records
from rlpost.types import Prompt
from rlpost.weights.bus import WeightBus


class GenerationState:
    """``stages.run.Kept`` of producer and bus."""

    def __init__(
        self,
        producer: Producer,
        staleness: Staleness,
        bus: WeightBus,
        *,
        find: Callable[[str], Prompt],
    ) -> None:
        """``find`` gives the prompt of a uid."""
        self._producer, self._staleness, self._bus = producer, staleness, bus
        self._find = find

    def state_dict(self) -> Callable[[], dict[str, Any]]:
        """Return what makes the state; only a snapshot that is saved pays for the groups."""
        version, staleness = self._bus.last_version, self._staleness.state_dict()
        ready = self._producer.ready()
        return lambda: {"version": version, "staleness": staleness, "ready": to_records(ready)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it; the producer sweeps what the checkpoint does not hold."""
        self._bus.last_version = max(self._bus.last_version, state["version"])
        self._producer.restore(
            from_records(state["ready"], find=self._find),
            staleness=state["staleness"],
            version=state["version"],
        )
