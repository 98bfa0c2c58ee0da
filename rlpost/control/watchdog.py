"""Whether the run makes progress.

Owns the time of the last progress. Refuses to own clocks, dumps and exits. Progress means that
something was finished (a group, an update, a phase of a push); that a process answers pings is
not progress. Invariant: a run without progress is reported after ``stuck_after_s``. Pure.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """Nothing was finished for too long."""

    since_s: float  # how long
    last: str  # what was finished last

    def __str__(self) -> str:
        return f"nothing was finished for {self.since_s:.0f} s, the last was: {self.last}"


class Watchdog:
    """Example::

    watchdog = Watchdog(stuck_after_s=600, now_s=clock())
    watchdog.progress("group 0:7", now_s=clock())
    stuck = watchdog.look(now_s=clock())
    """

    def __init__(self, *, stuck_after_s: float, now_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._last, self._last_s = "start", now_s

    def progress(self, what: str, *, now_s: float) -> None:
        """Note that something was finished."""
        self._last, self._last_s = what, now_s

    def look(self, *, now_s: float) -> Stuck | None:
        """Return how the run is stuck, None while it makes progress."""
        since_s = now_s - self._last_s
        return Stuck(since_s=since_s, last=self._last) if since_s > self._stuck_after_s else None
