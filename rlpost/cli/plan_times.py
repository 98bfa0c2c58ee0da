"""How ``rlpost plan`` shows the time of a step.

Owns the table and how far it can be relied on. Refuses to own the arithmetic (roofline/).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlpost.roofline.devices import DeviceSpec
from rlpost.roofline.efficiency import CPU_ERROR, KNOWN_ERROR, SEALED_ERROR
from rlpost.roofline.generation import DoesNotFit
from rlpost.stages.registry import Stage


@dataclass(frozen=True, kw_only=True)
class PlannedOn:
    """Where a run's actors would be."""

    slots: Sequence[Any]
    gpu: DeviceSpec | None  # None: on CPU, or not in the table
    gpu_name: str  # of the driver; empty: on CPU
    cores: float  # of one node


@dataclass(frozen=True, kw_only=True)
class ShownTimes:
    """What is said of time, and what would not fit."""

    table: Any | None = None
    sentences: Sequence[str] = ()
    lacking: list[str] = field(default_factory=list)

    def show(self) -> None:
        """Print it."""
        from rich.console import Console

        console = Console(highlight=False)
        for each in (self.table, *self.sentences):
            if each is not None:
                console.print(each)


def step_times(
    stage: Stage, plan: Any, where: PlannedOn, *, mean_response: float | None
) -> ShownTimes:
    """Return what to say of a step's time.

    Args:
        stage: whose ``timing`` is asked.
        plan: a checked run.
        where: its slots and devices.
        mean_response: tokens of a response on average; None: as many as are allowed.
    """
    from rlpost.doctor import machine

    if stage.timing is None:
        return ShownTimes()
    if where.gpu is None and where.gpu_name:
        unknown = f"How long a step takes on {where.gpu_name!r} is not known."
        return ShownTimes(sentences=[unknown])
    try:
        times = stage.part("timing")(
            plan,
            slots=where.slots,
            gpu=where.gpu,
            cores=where.cores,
            features=machine.cpu_features(),
            mean_response=mean_response,
        )
    except DoesNotFit as error:
        return ShownTimes(lacking=[str(error)])
    return ShownTimes(table=_table(times), sentences=_trust(where.gpu))


def _table(times: Any) -> Any:
    from rich.table import Table

    table = Table(title="time of a step")
    table.add_column("part")
    table.add_column("s", justify="right")
    parts = {
        "generation": times.generation_s,
        "reference, critic, log-probs": times.scoring_s,
        "training": times.training_s,
        "push of new weights": times.push_s,
        "sleep and waking of models": times.switching_s,
        "hidden by overlap": -times.hidden_s,
    }
    for part, seconds in parts.items():
        if seconds:
            table.add_row(part, f"{seconds:,.1f}")
    table.add_section()
    table.add_row("step", f"{times.total_s:,.1f}")
    return table


def _trust(gpu: DeviceSpec | None) -> list[str]:
    """Return how far the times of a step can be relied on."""
    lengths = "Responses are as long as rollout.max_tokens, or as --mean-response says."
    if gpu is None:
        return [f"Times on CPUs were within {CPU_ERROR:.0%} where they were measured.", lengths]
    return [
        f"Times are for {gpu.name} by a roofline whose error on published figures of sources that "
        f"it had never seen is {SEALED_ERROR[0]:.0%} in the median and {SEALED_ERROR[1]:.0%} at "
        f"worst ({KNOWN_ERROR[0]:.0%} and {KNOWN_ERROR[1]:.0%} for the sources that half of it was "
        "fitted to); rlpost's own runs on several GPUs are not among them.",
        lengths,
    ]
