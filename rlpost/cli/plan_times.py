"""How ``rlpost plan`` shows the time of a step.

Owns the table and how far it can be relied on. Refuses to own the arithmetic (roofline/).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlpost.roofline.devices import DeviceSpec
from rlpost.roofline.efficiency import CPU_ERROR, KNOWN_ERROR, SEALED_ERROR
from rlpost.roofline.generation import DoesNotFit
from rlpost.roofline.steps import StepTime
from rlpost.stages.registry import Stage

if TYPE_CHECKING:  # it imports torch
    from rlpost.stages.step_time import PlannedOn


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
    stage: Stage, plan: Any, on: "PlannedOn", *, gpu_name: str, mean_response: float | None
) -> ShownTimes:
    """Return what to say of a step's time.

    Args:
        stage: whose ``timing`` is asked.
        plan: a checked run.
        on: its slots and devices.
        gpu_name: of the driver; empty: on CPU.
        mean_response: tokens of a response on average; None: as many as are allowed.
    """
    if stage.timing is None:
        return ShownTimes()
    if on.gpu is None and gpu_name:
        unknown = f"How long a step takes on {gpu_name!r} is not known."
        return ShownTimes(sentences=[unknown])
    try:
        times = stage.part("timing")(plan, on, mean_response=mean_response)
    except DoesNotFit as error:
        return ShownTimes(lacking=[str(error)])
    if times is None:
        return ShownTimes(sentences=["How long it takes is up to the server that answers."])
    sentences = _trust(on.gpu)
    if times.generation_s:
        longest = "max_tokens" if stage.name == "evaluate" else "rollout.max_tokens"
        sentences.append(f"Responses are as long as {longest}, or as --mean-response says.")
    return ShownTimes(table=_table(times), sentences=sentences)


def _table(times: StepTime) -> Any:
    from rich.table import Table

    table = Table(title=f"time of {times.of}")
    table.add_column("part")
    table.add_column("s", justify="right")
    parts = {
        "generation": times.generation_s,
        "reference, critic, teacher, log-probs": times.scoring_s,
        "training": times.training_s,
        "push of new weights": times.push_s,
        "sleep and waking of models": times.switching_s,
        "hidden by overlap": -times.hidden_s,
    }
    for part, seconds in parts.items():
        if seconds:
            table.add_row(part, f"{seconds:,.1f}")
    table.add_section()
    table.add_row(times.of.removeprefix("a "), f"{times.total_s:,.1f}")
    if times.first_s:
        table.add_row("before the first step", f"{times.first_s:,.1f}")
    if times.steps > 1:
        table.add_row(f"all {times.steps:,} steps", f"{times.run_s:,.1f}")
    return table


def _trust(gpu: DeviceSpec | None) -> list[str]:
    """Return how far the times of a step can be relied on."""
    if gpu is None:
        return [f"Times on CPUs were within {CPU_ERROR:.0%} where they were measured."]
    return [
        f"Times are for {gpu.name} by a roofline whose error on published figures of sources that "
        f"it had never seen is {SEALED_ERROR[0]:.0%} in the median and {SEALED_ERROR[1]:.0%} at "
        f"worst ({KNOWN_ERROR[0]:.0%} and {KNOWN_ERROR[1]:.0%} for the sources that half of it was "
        "fitted to); rlpost's own runs on several GPUs are not among them.",
    ]
