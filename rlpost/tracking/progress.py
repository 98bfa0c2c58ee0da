"""The numbers and short texts that the console shows about a run.

Owns the reading of metrics for display and the estimate of the time left. Refuses to
own layout (console.py) and held-out results (heldout.py). Invariant: a quantity that was not
logged is absent, never 0.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlpost.control.result_metrics import ACCURACY, HeldoutKind
from rlpost.tracking.heldout import heldout_result, is_graded

_COMPONENT = re.compile(r"verifier/(?P<verifier>.+)/mean")
THROUGHPUT = "perf/throughput"
STEP_TIME = "timing_s/step"

_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class StepNumber:
    """A number that tells how a step went; ``pattern`` matches its metric."""

    label: str
    short: str  # in a line
    pattern: re.Pattern[str]
    digits: int  # after the decimal point
    is_headline: bool = False  # of a report: it is what a step trains on

    def of(self, metrics: Mapping[str, float]) -> float | None:
        """Return the number in a row of metrics, None if it was not logged."""
        names = (name for name in metrics if self.pattern.fullmatch(name))
        return next((metrics[name] for name in names), None)


STEP_NUMBERS = (
    StepNumber(
        label="reward",
        short="reward",
        pattern=re.compile("critic/score/mean"),
        digits=3,
        is_headline=True,
    ),
    StepNumber(
        label="response length",
        short="length",
        pattern=re.compile("response_length/mean"),
        digits=1,
    ),
    StepNumber(
        label="loss", short="loss", pattern=re.compile(r"\w+/loss"), digits=4, is_headline=True
    ),
    StepNumber(label="epoch", short="epoch", pattern=re.compile("training/epoch"), digits=2),
)


def reward_components(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return verifier, or reward model, -> mean of its rewards, in the order of the row."""
    found = {}
    for name, value in metrics.items():
        if match := _COMPONENT.fullmatch(name):
            found[match["verifier"]] = value
    return found


@dataclass
class StepForecast:
    """The state of the console; every row of metrics is given to ``observe``.

    ``seen`` has steps with the clock's reading at their row. Their differences include the time
    of evaluations and checkpoints, so the estimate does too.
    """

    num_steps: int
    step: int = 0
    latest: dict[str, float] = field(default_factory=dict)
    # Label of a ``StepNumber`` -> (step, value) of each row that had it.
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    heldout: list[tuple[int, float]] = field(default_factory=list)
    heldout_kind: HeldoutKind = ACCURACY  # of the last result
    graded: bool = False  # some held-out response got a reward other than 0 and 1
    seen: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=50))

    def observe(self, step: int, metrics: Mapping[str, float], *, now_s: float) -> None:
        """Read the metrics of ``step``."""
        self.step = step
        self.latest.update({name: value for name, value in metrics.items() if value is not None})
        for shown in STEP_NUMBERS:
            if (value := shown.of(metrics)) is not None:
                self.curves.setdefault(shown.label, []).append((step, value))
        result = heldout_result(metrics)
        if result is not None:
            self.heldout.append((step, result.value))
            self.heldout_kind = result.kind
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
        for curve in (*self.curves.values(), self.heldout):
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
        elif self.step > 0 and STEP_TIME in self.latest:
            pace_s = self.latest[STEP_TIME]
        else:
            return None
        left_s = remaining * pace_s - (now_s - self.seen[-1][1])
        return left_s if left_s >= 1 else None

    def best(self) -> tuple[int, float] | None:
        """Return (step, result) of the best evaluation, the earliest among equals."""
        sign = -1 if self.heldout_kind.lowest_is_best else 1
        return max(self.heldout, key=lambda pair: sign * pair[1], default=None)


def cost_words(metrics: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the device time of a run as text, and what of it was lost; None: it is unknown.

    Example: ``("1.25 GPU hours", "0.20 of them lost")``
    """
    for unit, device in (("gpu_s", "GPU"), ("core_s", "core")):
        if (spent_s := metrics.get(f"cost/{unit}")) is not None:
            lost_s = metrics.get(f"cost/lost/{unit}") or 0.0
            lost = f"{lost_s / 3600:.2f} of them lost" if lost_s else ""
            return f"{spent_s / 3600:.2f} {device} hours", lost
    return None


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
