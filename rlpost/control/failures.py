"""How often something may fail before someone gives up.

Owns attempts per prompt, the run's budget and the pause before a retry. Refuses to own the
retry itself. Invariants: a prompt is tried a bounded number of times; a run that fails again
and again without finishing anything in between ends with a reason. Pure.
"""

from dataclasses import dataclass

from rlpost.errors import RunFailed, UserError


@dataclass(kw_only=True)
class FailureConfig:
    """What a run survives before it gives up."""

    attempts: int = 3  # generations of one prompt; then it is dropped as poison
    failures_in_a_row: int = 64  # restarts and dropped prompts, without a finished group between
    trainer_restarts: int = 3  # without a finished step in between
    backoff_s: float = 0.5  # before the first retry; doubles, at most ``max_backoff_s``
    max_backoff_s: float = 30.0
    ping_every_s: float = 5.0
    ping_timeout_s: float = 20.0
    missed_pings: int = 3  # in a row; then the process is killed and restarted
    stuck_after_s: float = 3600.0  # without any progress; then the run ends with a dump
    idle_steps: int = 10  # in a row without an update; then the run ends. 0: never
    verifier_error_rate: float = 0.5  # share of responses not judged; above it the run ends

    def check(self, path: str = "failures") -> None:
        """Raises UserError: a field is out of range."""
        for name in ("attempts", "failures_in_a_row", "missed_pings"):
            if getattr(self, name) < 1:
                raise UserError(f"{path}.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("ping_every_s", "ping_timeout_s", "stuck_after_s"):
            if getattr(self, name) <= 0:
                raise UserError(f"{path}.{name} must be positive, got {getattr(self, name)}")
        for name in ("trainer_restarts", "backoff_s", "max_backoff_s", "idle_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"{path}.{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.verifier_error_rate <= 1:
            raise UserError(
                f"{path}.verifier_error_rate must be in [0, 1], got {self.verifier_error_rate}; "
                "1 never ends a run"
            )


class Attempts:
    """Tries of each prompt that is under way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failed: dict[str, int] = {}

    def failed(self, uid: str) -> bool:
        """Count a failure; says whether the prompt may be tried again."""
        self._failed[uid] = self._failed.get(uid, 0) + 1
        return self._failed[uid] < self._limit

    def count(self, uid: str) -> int:
        return self._failed.get(uid, 0)

    def ended(self, uid: str) -> None:
        """The prompt is finished or dropped."""
        self._failed.pop(uid, None)


class Budget:
    """Failures in a row that end the run."""

    def __init__(self, limit: int, *, of: str, field: str) -> None:
        self._limit, self._of, self._field = limit, of, field
        self.spent = 0

    def spend(self, reason: str) -> None:
        """Count a failure.

        Raises:
            RunFailed: one too many without progress.
        """
        self.spent += 1
        if self.spent > self._limit:
            raise RunFailed(
                f"{self.spent} {self._of} in a row without progress ({self._field}="
                f"{self._limit}); the last: {reason}"
            )

    def progress(self) -> None:
        """Something was finished: start counting anew."""
        self.spent = 0


def backoff(failures: int, *, config: FailureConfig) -> float:
    """Seconds to wait after the n-th failure (from 1)."""
    return min(config.max_backoff_s, config.backoff_s * 2.0 ** min(failures - 1, 64))
