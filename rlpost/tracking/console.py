"""The display on the terminal: a live panel, plain lines, or nothing.

Owns layout and refreshing. Refuses to own the numbers (progress.py) and the log
(files/run_log.py). Invariants: 80 columns are enough, and up to 120 are used; text from data is
never interpreted as markup; a terminal that cannot be written to ends the display, not the run;
the terminal is restored, whatever ends the run.
"""

import io
import logging
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any

from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlpost.tracking.config import ConsoleMode
from rlpost.tracking.heldout import heldout_result, heldout_words
from rlpost.tracking.progress import (
    STEP_NUMBERS,
    STEP_TIME,
    THROUGHPUT,
    StepForecast,
    duration,
    one_line,
    reward_components,
    sparkline,
)
from rlpost.tracking.sample import SampleRecord
from rlpost.tracking.tracker import Phase, RunStatus

_NARROW, _WIDE = 80, 120  # columns
_MAX_WARNINGS = 3
_WARNING_LINES = 3  # of each
_REFRESH_PER_S = 2  # the panel costs the driver about 1 % of a core
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PRINTED = (Phase.setting_up, Phase.exporting)  # plain mode prints a line for them
_STATUS = {
    RunStatus.done: ("done", "bold green"),
    RunStatus.failed: ("failed", "bold red"),
    RunStatus.interrupted: ("interrupted", "bold yellow"),
}


class RunTerminal(Terminal):
    """A terminal that raises at a closed pipe and can print any character.

    Rich itself ends the process at a closed pipe, and raises at characters that the stream's
    encoding lacks.
    """

    def __init__(self, file: IO[str] | None = None, **options: Any) -> None:
        stream = file or sys.stdout
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        super().__init__(file=file, **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("the reader of the output is gone")


class Console:
    """Tracker that shows the run on the terminal.

    Example::

        console = Console(run_name="quickstart", num_steps=14, mode=ConsoleMode.auto)
        console.phase(Phase.setting_up, "starting 2 generators")
    """

    def __init__(
        self,
        *,
        run_name: str,
        num_steps: int,
        mode: ConsoleMode = ConsoleMode.auto,
        terminal: Terminal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terminal = terminal or RunTerminal()
        if mode is ConsoleMode.auto:
            mode = ConsoleMode.live if self._terminal.is_terminal else ConsoleMode.plain
        self.mode = mode
        self._run_name, self._clock = run_name, clock
        self._progress = StepForecast(num_steps)
        self._phase, self._detail = Phase.setting_up, ""
        self._start_s = self._phase_start_s = clock()
        self._sample: SampleRecord | None = None
        self._lock = threading.RLock()  # rich refreshes from its own thread
        self._warnings = _Warnings(self._plain_warning)
        self._live: Live | None = None
        if mode is not ConsoleMode.quiet:
            logging.getLogger("rlpost").addHandler(self._warnings)
        if mode is ConsoleMode.live:
            self._live = Live(
                console=self._terminal,
                get_renderable=self.panel,
                refresh_per_second=_REFRESH_PER_S,
                redirect_stdout=False,  # other output goes to run.log
                redirect_stderr=False,
            )
            self._live.start()

    def phase(self, phase: Phase, detail: str = "") -> None:
        """Show what the driver waits for; plain mode prints set-up, its end and the export only."""
        now_s = self._clock()
        with self._lock:
            is_ready = self._phase is Phase.setting_up and phase is not Phase.setting_up
            if phase is not self._phase:
                self._phase_start_s = now_s
            self._phase, self._detail = phase, detail
        if is_ready:
            self._line(Text(f"ready after {duration(now_s - self._start_s)}", style="dim"))
        if phase in _PRINTED:
            self._line(Text(f"{phase.value}: {detail}" if detail else phase.value, style="dim"))

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Read the rows of an earlier process of this run, without printing them."""
        with self._lock:
            self._progress.recall(rows)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Read a row; plain mode prints a line for the step and one for an evaluation."""
        with self._lock:
            self._progress.observe(step, metrics, now_s=self._clock())
        if STEP_TIME in metrics or any(each.of(metrics) is not None for each in STEP_NUMBERS):
            self._line(self._step_line(metrics))
        if heldout_result(metrics) is not None:
            self._line(Text.assemble(self._counter(), *self._heldout_parts()))

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Keep the response with the highest reward, to show it."""
        with self._lock:
            self._sample = max(samples, key=lambda each: each.reward or 0.0, default=None)

    def rewind(self, step: int) -> None:
        """Show the run as it was after ``step``; plain mode prints that it went back."""
        with self._lock:
            went_back = self._progress.step > max(0, step)
            self._progress.rewind(step)
            self._sample = None
        if went_back:
            self._line(Text.assemble(self._counter(), ("back to this step", "yellow")))

    def close(self, status: RunStatus) -> None:
        """Leave the last panel on the screen and print how the run ended."""
        logging.getLogger("rlpost").removeHandler(self._warnings)
        if self._live is not None:
            self._unless_gone(self._live.stop)
            self._live = None
        word, style = _STATUS[status]
        took = duration(self._clock() - self._start_s)
        last = Text.assemble((word, style), f" after {took}, step {self._progress.step}")
        if self._progress.heldout:
            last = Text.assemble(last, "; ", *self._heldout_parts())
        if self.mode is not ConsoleMode.quiet:
            self._print(last)

    def panel(self) -> RenderableType:
        """Return the current live panel."""
        with self._lock:
            width = min(_WIDE, self._terminal.width)
            parts: list[RenderableType] = [self._head(width - 46), self._bar(width - 6)]
            table = Table.grid(padding=(0, 2))
            table.add_column(style="dim", no_wrap=True)
            table.add_column(no_wrap=True, overflow="ellipsis")
            for label, value in self._rows(_spark(width)):
                table.add_row(label, value)
            if table.row_count:
                parts += [Text(), table]
            if self._sample is not None:
                parts += [Text(), *self._sample_lines(self._sample, width - 6)]
            if self._warnings.last:
                parts += [Text(), *self._warnings.lines(width - 6)]
            title = Text.assemble(" ", (one_line(self._run_name, 50), "bold"), " ")
            return Panel(
                Group(*parts),
                title=title,
                title_align="left",
                border_style="cyan",
                padding=(0, 2),
                width=width,
            )

    def _head(self, room: int) -> RenderableType:
        now_s = self._clock()
        frame = _SPINNER[int(now_s * _REFRESH_PER_S) % len(_SPINNER)]
        what = Text.assemble(
            (f"{frame} ", "cyan"),
            (self._phase.value, "bold cyan"),
            (f"  {duration(now_s - self._phase_start_s)}", "dim"),
        )
        if self._detail:
            what.append(f"  {one_line(self._detail, max(10, room))}", style="dim")
        left_s = self._progress.time_left_s(now_s)
        left = "" if left_s is None else f"about {duration(left_s)} left"
        head = Table.grid(expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis")
        head.add_column(justify="right", no_wrap=True)
        head.add_row(what, Text(left, style="dim"))
        return head

    def _bar(self, width: int) -> RenderableType:
        progress = self._progress
        count = f"step {progress.step}/{progress.num_steps}"
        bar = Table.grid(padding=(0, 2))
        size = max(10, width - len(count) - 2)
        bar.add_row(
            count,
            ProgressBar(
                total=max(1, progress.num_steps),
                completed=progress.step,
                width=size,
                complete_style="cyan",
                finished_style="green",
            ),
        )
        return bar

    def _rows(self, spark: int) -> list[tuple[str, Text]]:
        progress, latest, rows = self._progress, self._progress.latest, []
        if progress.heldout:
            curve = sparkline([value for _, value in progress.heldout], width=spark)
            values = Text.assemble(*self._heldout_values(), (f"  {curve}", "cyan"))
            rows.append((self._heldout_words(), values))
        for shown in STEP_NUMBERS:
            if pairs := progress.curves.get(shown.label):
                curve = sparkline([value for _, value in pairs], width=spark)
                last = f"{pairs[-1][1]:<z8.{shown.digits}f}"
                rows.append((shown.label, Text.assemble(last, (curve, "cyan"))))
        if len(components := reward_components(latest)) > 1:
            words = (f"{name} {value:.3f}" for name, value in components.items())
            rows.append(("reward components", Text("  ".join(words))))
        if THROUGHPUT in latest:
            rows.append(("tokens/s", Text(f"{latest[THROUGHPUT]:,.0f}")))
        if "weights/version" in latest:
            rows.append(("weights", Text(_weights_text(latest))))
        return rows

    def _sample_lines(self, sample: SampleRecord, width: int) -> list[Text]:
        reward = "no reward" if sample.reward is None else f"reward {sample.reward:g}"
        style = "green" if sample.reward else "dim"
        return [
            Text.assemble(("prompt    ", "dim"), one_line(sample.prompt, width - 10)),
            Text.assemble(
                ("response  ", "dim"),
                one_line(sample.response, width - 12 - len(reward)),
                (f"  {reward}", style),
            ),
        ]

    def _heldout_values(self) -> list[str | tuple[str, str]]:
        heldout = self._progress.heldout
        best = self._progress.best()
        parts: list[str | tuple[str, str]] = [f"{heldout[0][1]:.3f}"]
        if len(heldout) > 1:
            parts += [(" → ", "dim"), (f"{heldout[-1][1]:.3f}", "bold")]
        if best is not None and len(heldout) > 1:
            parts.append((f"  best {best[1]:.3f} at step {best[0]}", "dim"))
        return parts

    def _heldout_parts(self) -> list[str | tuple[str, str]]:
        return [(f"{self._heldout_words()} ", "cyan"), *self._heldout_values()]

    def _heldout_words(self) -> str:
        return heldout_words(self._progress.heldout_kind, graded=self._progress.graded)

    def _counter(self) -> str:
        total = str(self._progress.num_steps)
        return f"step {self._progress.step:>{len(total)}}/{total}  "

    def _step_line(self, metrics: Mapping[str, float]) -> Text:
        pieces = [
            f"{shown.short} {value:z.{shown.digits}f}"
            for shown in STEP_NUMBERS
            if (value := shown.of(metrics)) is not None
        ]
        if THROUGHPUT in metrics:
            pieces.append(f"{metrics[THROUGHPUT]:,.0f} tok/s")
        if STEP_TIME in metrics:
            pieces.append(f"{metrics[STEP_TIME]:.1f} s")
        left_s = self._progress.time_left_s(self._clock())
        if left_s:
            pieces.append(f"{duration(left_s)} left")
        return Text(self._counter() + "  ".join(pieces))

    def _line(self, text: Text) -> None:
        if self.mode is ConsoleMode.plain:
            self._print(text)

    def _print(self, text: Text) -> None:
        self._unless_gone(lambda: self._terminal.print(text, soft_wrap=True, highlight=False))

    def _unless_gone(self, show: Callable[[], None]) -> None:
        """Call ``show``; if the output is gone or its disk full, stop displaying."""
        try:
            show()
        except OSError as error:
            self.mode = ConsoleMode.quiet
            logging.getLogger(__name__).info("the console stops: %s", error)

    def _plain_warning(self, text: str) -> None:
        self._line(Text(f"warning: {text}", style="yellow"))


class _Warnings(logging.Handler):
    """The last distinct warnings, and how often each came."""

    def __init__(self, on_new: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.last: dict[str, int] = {}
        self._on_new = on_new

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        count = self.last.pop(text, 0)
        self.last[text] = count + 1
        while len(self.last) > _MAX_WARNINGS:
            del self.last[next(iter(self.last))]
        if not count:
            self._on_new(text)

    def lines(self, width: int) -> list[Text]:
        shown = []
        for text, count in list(self.last.items()):
            suffix = f" ({count} times)" if count > 1 else ""
            lines = textwrap.wrap(
                text + suffix, width - 2, max_lines=_WARNING_LINES, placeholder=" …"
            )
            shown += [
                Text(("! " if not number else "  ") + line, style="yellow")
                for number, line in enumerate(lines)
            ]
        return shown


def _spark(width: int) -> int:
    """Return how many values of a curve a panel of this width shows."""
    return 20 + max(0, width - _NARROW)


def _weights_text(latest: Mapping[str, float]) -> str:
    pieces = [f"version {latest['weights/version']:.0f}"]
    if "weights/push_s" in latest:
        pieces.append(f"pushed in {latest['weights/push_s']:.2f} s")
    if "weights/probe_logprob_diff_mean" in latest:
        pieces.append(f"probe diff {latest['weights/probe_logprob_diff_mean']:.1e}")
    return ", ".join(pieces)
