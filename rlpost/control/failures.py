"""How many failures are tolerated: per prompt, and by the run as a whole.

Owns attempts per prompt, the run's budget and the pause before a retry. Refuses to own the
retry itself. Invariants: a prompt is tried a bounded number of times; a run that keeps failing
without finishing anything in between ends with a reason. Pure.
"""

from dataclasses import dataclass

from rlpost.bounds import WEEK_S, number
from rlpost.errors import RunFailed


@dataclass(kw_only=True)
class RestartConfig:
    """What a run survives before it gives up."""

    trainer_restarts: int = number(
        3,
        at_least=0,
        at_most=1000,
        help="restarts of the trainer without a finished step in between",
    )
    stuck_after_s: float = number(
        3600.0,
        above=0,
        at_most=WEEK_S,
        help="time without any progress, after which the run ends with a dump",
    )


@dataclass(kw_only=True)
class GenerationFailureConfig(RestartConfig):
    """What a run and its generators survive before the run gives up."""

    attempts: int = number(
        3, at_least=1, at_most=1000, help="generations of one prompt, before it is dropped"
    )
    failures_in_a_row: int = number(
        64,
        at_least=1,
        at_most=10**6,
        help="restarts and dropped prompts, without a finished group in between",
    )
    backoff_s: float = number(
        0.5, at_least=0, at_most=3600, help="wait before the first retry; it doubles each time"
    )
    max_backoff_s: float = number(
        30.0, at_least=0, at_most=3600, help="longest wait before a retry"
    )
    ping_every_s: float = number(
        5.0, above=0, at_most=3600, help="time between two questions to an actor whether it lives"
    )
    ping_timeout_s: float = number(
        20.0, above=0, at_most=3600, help="how long an actor may take to answer"
    )
    missed_pings: int = number(
        3,
        at_least=1,
        at_most=1000,
        help="answers missed in a row, after which the process is killed and restarted",
    )


@dataclass(kw_only=True)
class FailureConfig(GenerationFailureConfig):
    """What a run, its generators and its verifiers survive before the run gives up."""

    idle_steps: int = number(
        10,
        at_least=0,
        at_most=10**8,
        help="steps in a row without an update, which end the run; 0: never",
    )
    verifier_error_rate: float = number(
        0.5,
        at_least=0,
        at_most=1,
        hint="1 never ends a run",
        help="share of responses not judged, above which the run ends",
    )


class Attempts:
    """Failed attempts of each prompt in progress."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failed: dict[str, int] = {}

    def failed(self, uid: str) -> bool:
        """Count a failure; return whether the prompt may be tried again."""
        self._failed[uid] = self._failed.get(uid, 0) + 1
        return self._failed[uid] < self._limit

    def count(self, uid: str) -> int:
        return self._failed.get(uid, 0)

    def ended(self, uid: str) -> None:
        """Forget a prompt that is finished or dropped."""
        self._failed.pop(uid, None)


class Budget:
    """Counts failures in a row; one too many ends the run."""

    def __init__(self, limit: int, *, of: str, field: str) -> None:
        self._limit, self._of, self._field = limit, of, field
        self.spent = 0

    def spend(self, reason: str) -> None:
        """Count a failure.

        Raises:
            RunFailed: more than ``limit`` failures without progress.
        """
        self.spent += 1
        if self.spent > self._limit:
            raise RunFailed(
                f"{self.spent} {self._of} in a row without progress ({self._field}="
                f"{self._limit}); the last: {reason}"
            )

    def progress(self) -> None:
        """Reset the count, because something was finished."""
        self.spent = 0


def backoff(failures: int, *, config: GenerationFailureConfig) -> float:
    """Return the seconds to wait after the n-th failure (n counts from 1)."""
    return min(config.max_backoff_s, config.backoff_s * 2.0 ** min(failures - 1, 64))
