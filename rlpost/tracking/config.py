"""What a user may choose about being told what a run does.

Owns the options. Refuses to own their effect (the file of each sink). Invariant: an option
that is accepted changes what a person sees.
"""

from dataclasses import dataclass
from enum import Enum

from rlpost.bounds import number
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
    """Who is told about the run; its own files are always written."""

    wandb: WandbMode = WandbMode.auto
    project: str = "rlpost"  # W&B project
    group: str | None = None  # W&B group; puts the members of a sweep together
    tensorboard: bool = False  # event files in <run>/tensorboard/
    console: ConsoleMode = ConsoleMode.auto
    # Samples of a step in W&B tables.
    sample_rows: int = number(16, at_least=0, at_most=10**5, hint="0 sends no sample tables to W&B")
    report: bool = True  # write report.html at every evaluation and at the end

    def check(self, path: str = "tracking") -> None:
        """Raises UserError: the project has no name."""
        if not self.project.strip():
            raise UserError(f"{path}.project must not be empty; the default is 'rlpost'")
