"""What a run has cost: time, devices and tokens, added up over everything it did.

Owns the sums and what of them was lost. Refuses to own where they are kept (stages/ledger.py).
Invariants: no sum ever falls, neither at a resume nor when a lost trainer sends the run back; what
was spent after the checkpoint that a run goes on from counts as spent, and as lost. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Sums = dict[str, float]  # name -> seconds, device-seconds or tokens

WALL = "wall_s"
_TOKENS = "tokens/"
_LOST = ("wall_s", "gpu_s", "core_s", "tokens/trained")  # of which the lost part is reported
# Metrics of a step that count tokens -> what they count. Each has a part by source behind a "/".
_COUNTED = {"perf/trained_tokens": "trained", "rollout/tokens": "sampled"}


@dataclass(frozen=True, kw_only=True)
class DevicesInUse:
    """What a run occupies; ``unit`` is ``gpu_s`` or ``core_s``."""

    unit: str
    number: float


@dataclass(kw_only=True)
class RunCost:
    """The cost of one run, over all its processes.

    Example::

        cost = RunCost(now_s=clock())
        cost.spend(now_s=clock(), devices=DevicesInUse(unit="gpu_s", number=8), metrics=row)
        cost.metrics()  # {"cost/wall_s": 31.5, "cost/gpu_s": 252.0, "cost/tokens/trained": ...}
    """

    now_s: float  # reading of the clock when something was spent last
    spent: Sums = field(default_factory=dict)
    lost: Sums = field(default_factory=dict)

    def spend(
        self,
        *,
        now_s: float,
        devices: DevicesInUse,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Add the time since the last call, and what ``metrics`` of a step, or evaluation, count.

        Seconds of a phase are those of ``timing_s/<phase>``; phases may overlap.
        """
        elapsed_s = max(0.0, now_s - self.now_s)
        self.now_s = now_s
        self._add(WALL, elapsed_s)
        self._add(devices.unit, elapsed_s * devices.number)
        for name, value in (metrics or {}).items():
            if name.startswith("timing_s/") and name != "timing_s/step":
                self._add(f"phase_s/{name.removeprefix('timing_s/')}", value)
        for name, amount in tokens_in(metrics or {}).items():
            self._add(_TOKENS + name, amount)

    def _add(self, name: str, amount: float) -> None:
        self.spent[name] = self.spent.get(name, 0.0) + amount

    def go_back(self, state: Mapping[str, Any] | None, *, reached: Sums | None = None) -> None:
        """The run goes on from what ``state`` was taken of; None: from its beginning.

        ``reached``: what was spent until it stopped there; None: until this moment.
        """
        useful: Mapping[str, float] = state["useful"] if state is not None else {}
        for name, amount in useful.items():  # where the record of this run is gone
            self.spent[name] = max(self.spent.get(name, 0.0), amount)
        reached = self.spent if reached is None else reached
        for name, amount in reached.items():
            lost = amount - useful.get(name, 0.0)
            self.lost[name] = max(self.lost.get(name, 0.0), lost)

    def state_dict(self) -> dict[str, Any]:
        """Return what belongs to checkpoints: what was spent for the state that they hold."""
        return {
            "useful": {
                name: amount - self.lost.get(name, 0.0) for name, amount in self.spent.items()
            }
        }

    def metrics(self) -> dict[str, float]:
        """Return ``cost/<sum>`` and ``cost/lost/<sum>``.

        These are ``cost/wall_s``, ``cost/gpu_s`` or ``cost/core_s``, ``cost/phase_s/<phase>`` and
        ``cost/tokens/<kind>``, where a kind may be followed by ``/<source>``.
        """
        found = {f"cost/{name}": amount for name, amount in self.spent.items()}
        lost = {name: self.lost.get(name, 0.0) for name in _LOST if name in self.spent}
        return found | {f"cost/lost/{name}": amount for name, amount in lost.items()}


def tokens_in(metrics: Mapping[str, float]) -> Sums:
    """Return prompt, sampled and trained tokens that a row counts, and trained ones by source.

    Prompt tokens are counted once for each response, as they are read.
    """
    found: Sums = {}
    for name, value in metrics.items():
        for counted, kind in _COUNTED.items():
            if name == counted or name.startswith(f"{counted}/"):
                found[kind + name.removeprefix(counted)] = value
    if "rollout/num_tokens" in metrics:
        found["prompt"] = metrics["rollout/num_tokens"] - metrics.get("rollout/tokens", 0.0)
    elif "perf/packed_tokens" in metrics:
        found["prompt"] = metrics["perf/packed_tokens"] - metrics.get("perf/trained_tokens", 0.0)
    return found
