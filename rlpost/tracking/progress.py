"""The numbers and short texts that the console and the report show about a run.

Owns the reading of metrics for display and the estimate of the time left. Refuses to
own layout (console.py). Invariant: a quantity that was not logged is absent, never 0.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HELDOUT = re.compile(r"val-core/(?P<dataset>.+)/acc/mean@\d+")
_GRADED = re.compile(r"val-core/.+/graded_frac")
COMPONENT = re.compile(r"verifier/(?P<verifier>.+)/mean")
REWARD = "critic/score/mean"
LENGTH = "response_length/mean"
THROUGHPUT = "perf/throughput"

_BLOCKS = "▁▂▃▄▅▆▇█"


def heldout_accuracy(metrics: Mapping[str, float]) -> float | None:
    """Return the held-out accuracy of a row: the mean over data sets, None without any."""
    found = [value for name, value in metrics.items() if HELDOUT.fullmatch(name)]
    found = [value for value in found if value is not None]
    return sum(found) / len(found) if found else None


def is_graded(metrics: Mapping[str, float | None]) -> bool:
    """Return whether held-out responses of a row got rewards other than 0 and 1.

    The mean of such rewards is not an accuracy, although the name of its metric says so.
    """
    shares = (value for name, value in metrics.items() if _GRADED.fullmatch(name))
    means = (value for name, value in metrics.items() if HELDOUT.fullmatch(name))
    return any(share for share in shares) or any(
        mean is not None and not 0 <= mean <= 1 for mean in means
    )


def reward_components(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return verifier, or reward model, -> mean of its rewards, in the order of the row."""
    found = {}
    for name, value in metrics.items():
        if match := COMPONENT.fullmatch(name):
            found[match["verifier"]] = value
    return found


def heldout_words(*, graded: bool) -> str:
    """Return the name to show for the mean of the held-out rewards."""
    return "held-out reward" if graded else "held-out accuracy"


def heldout_change(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the results of the first and the last evaluation as text, None without any.

    Example: ``"held-out accuracy 0.111 at step 0, 0.889 at step 14"``
    """
    found = [(row["step"], mean) for row in rows if (mean := heldout_accuracy(row)) is not None]
    if not found:
        return None
    ends = [found[0], found[-1]] if len(found) > 1 else found
    said = ", ".join(f"{mean:.3f} at step {step}" for step, mean in ends)
    return f"{heldout_words(graded=any(map(is_graded, rows)))} {said}"


@dataclass
class StepForecast:
    """The state of the console; every row of metrics is given to ``observe``.

    ``seen`` has steps with the clock's reading at their row. Their differences include the time
    of evaluations and checkpoints, so the estimate does too.
    """

    num_steps: int
    step: int = 0
    latest: dict[str, float] = field(default_factory=dict)
    rewards: list[tuple[int, float]] = field(default_factory=list)  # (step, value)
    lengths: list[tuple[int, float]] = field(default_factory=list)
    heldout: list[tuple[int, float]] = field(default_factory=list)
    graded: bool = False  # some held-out response got a reward other than 0 and 1
    seen: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=50))

    def observe(self, step: int, metrics: Mapping[str, float], *, now_s: float) -> None:
        """Read the metrics of ``step``."""
        self.step = step
        self.latest.update({name: value for name, value in metrics.items() if value is not None})
        for name, curve in ((REWARD, self.rewards), (LENGTH, self.lengths)):
            if metrics.get(name) is not None:
                curve.append((step, metrics[name]))
        accuracy = heldout_accuracy(metrics)
        if accuracy is not None:
            self.heldout.append((step, accuracy))
        self.graded = self.graded or is_graded(metrics)
        if self.seen and self.seen[-1][0] == step:
            self.seen.pop()
        self.seen.append((step, now_s))

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Read the rows of an earlier process; they do not count for the pace of this one."""
        for row in rows:
            self.observe(row["step"], row, now_s=0.0)
        self.seen.clear()

    def rewind(self, step: int) -> None:
        """Forget the steps after ``step``, and measure the pace anew."""
        self.step = max(0, step)
        self.latest.clear()
        self.seen.clear()
        for curve in (self.rewards, self.lengths, self.heldout):
            curve[:] = [pair for pair in curve if pair[0] <= step]

    def time_left_s(self, now_s: float) -> float | None:
        """Return the expected seconds to the last step.

        None as long as no pace is known, and after the last step or the expected end.
        """
        remaining = max(0, self.num_steps - self.step)
        if remaining == 0:
            return None
        if len(self.seen) >= 2:
            (first, start_s), (last, end_s) = self.seen[0], self.seen[-1]
            pace_s = (end_s - start_s) / (last - first)
        elif self.step > 0 and "timing_s/step" in self.latest:
            pace_s = self.latest["timing_s/step"]
        else:
            return None
        left_s = remaining * pace_s - (now_s - self.seen[-1][1])
        return left_s if left_s >= 1 else None

    def best(self) -> tuple[int, float] | None:
        """Return (step, accuracy) of the best evaluation, the earliest among equals."""
        return max(self.heldout, key=lambda pair: pair[1], default=None)


def sparkline(values: list[float], *, width: int) -> str:
    """Return the last ``width`` values as bars from their lowest to their highest."""
    shown = [value for value in values[-width:] if value == value]
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    if span == 0:
        return _BLOCKS[3] * len(shown)
    return "".join(_BLOCKS[round((value - low) / span * 7)] for value in shown)


def duration(seconds: float) -> str:
    """Return ``48 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def one_line(text: str, width: int) -> str:
    """Return ``text`` on one line, cut to ``width`` characters with an ellipsis."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: max(0, width - 1)] + "…"
