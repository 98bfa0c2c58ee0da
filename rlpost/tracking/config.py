"""The options of tracking.

Owns the options. Refuses to own their effect (the file of each tracker). Invariant: every option
that is accepted has an effect.
"""

from dataclasses import dataclass
from enum import Enum

from rlpost.bounds import number, option
from rlpost.errors import UserError


class WandbMode(Enum):
    """Where Weights & Biases records go; ``auto`` is online iff a key is present."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


class ConsoleMode(Enum):
    """What the terminal shows; ``auto`` is ``live`` on a terminal and ``plain`` elsewhere."""

    auto = "auto"
    live = "live"  # one panel, refreshed in place
    plain = "plain"  # one line per step and per evaluation
    quiet = "quiet"  # nothing


@dataclass(kw_only=True)
class TrackingConfig:
    """Where a run is recorded, in addition to its own files, which are always written."""

    wandb: WandbMode = option(
        WandbMode.auto, help="where W&B records go; auto: online if a key is present"
    )
    project: str = option("rlpost", help="W&B project")
    group: str | None = option(
        None, help="W&B group, which puts the members of a sweep together; null: none"
    )
    tensorboard: bool = option(False, help="write event files into RUN/tensorboard/")
    console: ConsoleMode = option(
        ConsoleMode.auto, help="what is printed; auto: live on a terminal, plain elsewhere"
    )
    sample_rows: int = number(
        16,
        at_least=0,
        at_most=10**5,
        hint="0 sends no sample tables to W&B",
        help="samples of a step in W&B tables",
    )
    report: bool = option(True, help="write report.html at every evaluation and at the end")

    def check(self, path: str) -> None:
        """Raises UserError: the project has no name."""
        if not self.project.strip():
            raise UserError(f"{path}.project must not be empty; the default is 'rlpost'")
