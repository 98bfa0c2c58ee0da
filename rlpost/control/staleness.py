"""How far generation may run ahead of training, and which groups one step takes.

Owns three answers: how many prompts may be admitted, which finished groups make a batch, and
which are too old. Refuses to own the groups (buffer.py) and versions (weights/bus.py). Pure.

A group's lag is counted in steps: those completed when it is trained on, minus those completed
when the oldest weights that sampled it were pushed. Invariants, for ``wait``: no group is
consumed with a lag above ``max_staleness``, and none is ever dropped for its age; a batch is
only cut when everything left behind can still be consumed in time (the earliest-deadline
condition), so both hold at once and waiting always ends.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from rlpost.bounds import number, option
from rlpost.errors import UserError


class OnOverage(Enum):
    """What happens to a response that would be trained on too late.

    ``wait``: the batch waits for it; unbiased, but long responses can stall a step. ``drop``: it is
    thrown away; never stalls a step, but is biased against long responses. ``mask``: it is trained
    on without the tokens that are too old; never stalls a step, but is biased against the
    beginnings of long responses.
    """

    wait = "wait"
    drop = "drop"
    mask = "mask"


@dataclass(kw_only=True)
class StalenessConfig:
    """Asynchronous training: how far generation may run ahead.

    With ``max_staleness=0`` a step generates, then trains, then pushes (on-policy).
    """

    max_staleness: int = number(
        0,
        at_least=0,
        at_most=1000,
        hint="0 trains on-policy, 1 overlaps generation with training",
        help="steps by which the weights that sampled may lag; 0: on-policy",
    )
    on_overage: OnOverage = option(
        OnOverage.wait, help="what to do with a response that would be trained on too late"
    )
    oversample: float = number(
        0.0,
        at_least=0,
        at_most=4,
        hint="0.25 keeps a quarter more prompts in flight than a step needs",
        help="extra share of prompts in flight; a batch is cut without the last to finish",
    )

    @property
    def runs_ahead(self) -> bool:
        """Whether responses are sampled and judged while others are trained on."""
        return self.max_staleness > 0 or self.oversample > 0

    def check(self, path: str) -> None:
        """Raises UserError: two fields contradict each other."""
        if self.oversample and self.on_overage is OnOverage.wait:
            raise UserError(
                f"{path}.oversample={self.oversample} leaves responses over, and {path}."
                "on_overage=wait never drops any; set on_overage=drop or mask, or oversample=0"
            )
        if self.on_overage is OnOverage.mask and self.max_staleness == 0:
            raise UserError(
                f"{path}.on_overage=mask needs {path}.max_staleness of at least 1: on-policy "
                "there is no older token to leave out; use drop"
            )


class Aged(Protocol):
    """Something that weights of a certain version began to sample."""

    @property
    def order(self) -> int:
        """Place in the order of admission."""

    @property
    def version(self) -> int:
        """Oldest version that can have sampled any of its tokens."""


class Staleness:
    """Example::

    staleness = Staleness(StalenessConfig(max_staleness=1), batch=16)
    staleness.committed(version=1, step=0)
    assert staleness.admissible(running=0, ready=0, training=0) == 32
    """

    def __init__(self, config: StalenessConfig, *, batch: int) -> None:
        self.config = config
        self.batch = batch
        self.step = 0  # steps whose weights the newest committed version holds
        self._step_of: dict[int, int] = {}

    def committed(self, *, version: int, step: int) -> None:
        """Every serving generator now holds ``version``: the weights after ``step`` steps.

        A step that changed no weight commits the version before it again.
        """
        assert version >= max(self._step_of, default=0), (version, self._step_of)
        self.step = step
        self._step_of[version] = step

    def forget_before(self, versions: Iterable[int]) -> None:
        """Forget the versions that are older than all of ``versions`` and the newest."""
        oldest = min([*versions, max(self._step_of, default=0)])
        self._step_of = {v: s for v, s in self._step_of.items() if v >= oldest}

    def lag(self, version: int) -> int:
        """Steps between ``version`` and the newest weights."""
        return self.step - self._step_of[version]

    def oldest_version(self) -> int:
        """The oldest version whose tokens may be trained on now."""
        bound = self.config.max_staleness
        return min((v for v, s in self._step_of.items() if self.step - s <= bound), default=0)

    def admissible(self, *, running: int, ready: int, training: int) -> int:
        """How many prompts may be admitted now.

        Args:
            running: groups being generated or judged.
            ready: finished groups that no step has taken.
            training: groups of the step in progress, until its version is ``committed``.
        """
        config = self.config
        room = (config.max_staleness + 1) * self.batch + round(config.oversample * self.batch)
        return max(0, room - running - ready - training)

    def cut(self, ready: Sequence[Aged], running: Sequence[Aged]) -> list[Aged] | None:
        """Return the groups the next step trains on, oldest weights first; None: wait for more."""
        usable = sorted((r for r in ready if not self.too_old(r)), key=self._urgency)
        if len(usable) < self.batch:
            return None
        taken = usable[: self.batch]
        if self.config.on_overage is OnOverage.wait:
            left = [*usable[self.batch :], *running]
            if not self._in_time(left):
                return None
        return taken

    def too_old(self, item: Aged) -> bool:
        """Whether training on the whole of ``item`` now would break the bound."""
        if self.config.on_overage is OnOverage.mask:
            return False
        return self.lag(item.version) > self.config.max_staleness

    def _urgency(self, item: Aged) -> tuple[int, int]:
        # Not the order of admission alone: a retried group was admitted early but has fresh
        # tokens. Taken before an older group, it could make the older one miss its deadline.
        return -self.lag(item.version), item.order

    def _in_time(self, left: Sequence[Aged]) -> bool:
        """Whether the steps after the next one can consume all of ``left`` before it ages out."""
        # A group's deadline is the number of steps after which it is too old. The condition, for
        # every d: groups with a deadline of at most d fit into d batches. It is necessary, since
        # d steps consume d batches. It also holds again after the most urgent batch was taken:
        # deadlines shrink by one, new groups have the longest deadline (max_staleness), a retry
        # only extends one, and admission never lets more than max_staleness + 1 batches exist.
        # So waiting for groups always ends.
        deadlines = [self.config.max_staleness - self.lag(item.version) for item in left]
        return all(
            sum(deadline <= d for deadline in deadlines) <= d * self.batch
            for d in range(self.config.max_staleness + 1)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; JSON."""
        return {"step": self.step, "steps": {str(v): s for v, s in self._step_of.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self._step_of = {int(v): s for v, s in state["steps"].items()}
