import io
import logging

import pytest
from rich.console import Console as Terminal

from rlpost.tracking.config import ConsoleMode
from rlpost.tracking.console import Console, RunTerminal
from rlpost.tracking.tracker import Phase, RunStatus


class Screen:
    def __init__(self, *, tty, width=80):
        self.now = 0.0
        self.file = io.StringIO()
        self.terminal = Terminal(
            file=self.file, width=width, force_terminal=tty, color_system=None, legacy_windows=False
        )

    def open(self, mode):
        return Console(
            run_name="quickstart",
            num_steps=14,
            mode=mode,
            terminal=self.terminal,
            clock=lambda: self.now,
        )

    def panel(self, console):
        with self.terminal.capture() as capture:
            self.terminal.print(console.panel())
        return capture.get()

    @property
    def text(self):
        return self.file.getvalue()


def _run(screen, console, runs):
    console.phase(Phase.setting_up, "starting 2 generators")
    screen.now += 27.0
    console.phase(Phase.evaluating)
    console.log(0, {"val-core/arithmetic/acc/mean@2": 0.205})
    for step in range(1, 8):
        screen.now += 30.0
        console.phase(Phase.training)
        console.log(step, runs.step_metrics(step))
        console.log_samples(step, runs.step_samples(step))
    console.log(7, {"val-core/arithmetic/acc/mean@2": 0.412})


def test_auto_follows_the_terminal():
    for tty, mode in ((True, ConsoleMode.live), (False, ConsoleMode.plain)):
        console = Screen(tty=tty).open(ConsoleMode.auto)
        assert console.mode is mode
        console.close(RunStatus.done)


def test_plain_is_one_tidy_line_a_step_and_an_evaluation(runs):
    screen = Screen(tty=False)
    console = screen.open(ConsoleMode.plain)
    _run(screen, console, runs)
    console.close(RunStatus.done)
    lines = screen.text.splitlines()
    assert lines[0] == "setting up: starting 2 generators"
    assert lines[1] == "ready after 27 s"
    assert lines[2] == "step  0/14  held-out accuracy 0.205"
    assert lines[3].startswith("step  1/14  reward 0.190  length 13.1  238 tok/s  27.0 s")
    assert lines[3].endswith("6 min 30 s left")
    assert lines[10] == "step  7/14  held-out accuracy 0.205 → 0.412  best 0.412 at step 7"
    assert lines[11].startswith("done after 3 min 57 s, step 7; held-out accuracy 0.205 → 0.412")
    assert len(lines) == 12 and all(len(line) <= 85 for line in lines)
    assert "\x1b" not in screen.text and "\r" not in screen.text


def test_the_panel_shows_everything_within_80_columns(runs):
    screen = Screen(tty=True)
    console = screen.open(ConsoleMode.quiet)  # no refreshing thread; the panel is the same
    _run(screen, console, runs)
    console.phase(Phase.pushing_weights, "2 generators")
    screen.now += 5.0
    with screen.terminal.capture() as capture:
        screen.terminal.print(console.panel())
    panel = capture.get()
    for part in (
        "quickstart",
        "pushing weights  5 s",
        "2 generators",
        "step 7/14",
        "about 3 min 25 s left",
        "0.205 → 0.412",
        "best 0.412 at step 7",
        "response length",
        "236",
        "version 7, pushed in 0.87 s, probe diff 8.0e-06",
        "reward 1",
    ):
        assert part in panel, part
    assert max(map(len, panel.splitlines())) == 80


def test_a_wide_terminal_is_used_and_a_very_wide_one_in_part(runs):
    lengths = {}
    for columns in (60, 80, 110, 300):
        screen = Screen(tty=True, width=columns)
        console = screen.open(ConsoleMode.quiet)
        _run(screen, console, runs)
        console.log_samples(7, [runs.sample(prompt="word " * 99, response="word " * 99)])
        lengths[columns] = max(map(len, screen.panel(console).splitlines()))
    assert lengths == {60: 60, 80: 80, 110: 110, 300: 120}


def test_an_export_has_no_time_left_and_a_line_of_its_own(runs):
    screen = Screen(tty=False)
    console = screen.open(ConsoleMode.plain)
    for step in range(1, 15):
        screen.now += 30.0
        console.log(step, runs.step_metrics(step))
    console.phase(Phase.exporting, "the model")
    assert screen.text.splitlines()[-1] == "exporting: the model"
    panel = screen.panel(console)
    assert "exporting" in panel and "step 14/14" in panel and " left" not in panel
    console.close(RunStatus.done)


def test_several_rewards_are_shown_by_name(runs):
    screen = Screen(tty=True)
    console = screen.open(ConsoleMode.quiet)
    console.log(1, {**runs.step_metrics(1), "verifier/correct/mean": 0.25})
    assert "reward components" not in screen.panel(console)
    console.log(2, {**runs.step_metrics(2), "verifier/short/mean": 0.5})
    assert "correct 0.250  short 0.500" in screen.panel(console)


def test_graded_heldout_rewards_are_not_called_accuracy(runs):
    screen = Screen(tty=False)
    console = screen.open(ConsoleMode.plain)
    console.log(0, {"val-core/a/acc/mean@1": 0.4, "val-core/a/graded_frac": 0.5})
    assert "held-out reward 0.400" in screen.text and "held-out reward" in screen.panel(console)
    console.close(RunStatus.done)
    assert "accuracy" not in screen.text


def test_a_number_that_rounds_to_nothing_has_no_sign():
    screen = Screen(tty=False)
    console = screen.open(ConsoleMode.plain)
    console.log(1, {"actor/loss": -1e-9, "timing_s/step": 10.0})
    assert "loss 0.0000" in screen.text


def test_a_supervised_stage_tells_its_loss_epoch_speed_and_time_left():
    screen = Screen(tty=False)
    console = screen.open(ConsoleMode.plain)
    console.log(0, {"sft/heldout_loss/chat": 2.5, "training/global_step": 0.0})
    for step in (1, 2):
        screen.now += 10.0
        console.log(
            step,
            {
                "sft/loss": 2.0 / step,
                "training/epoch": 0.25 * step,
                "perf/throughput": 5120.0,
                "timing_s/step": 10.0,
            },
        )
    console.log(2, {"sft/heldout_loss/chat": 1.5})
    assert screen.text.splitlines() == [
        "step  0/14  held-out loss 2.500",
        "step  1/14  loss 2.0000  epoch 0.25  5,120 tok/s  10.0 s  2 min 10 s left",
        "step  2/14  loss 1.0000  epoch 0.50  5,120 tok/s  10.0 s  2 min 00 s left",
        "step  2/14  held-out loss 2.500 → 1.500  best 1.500 at step 2",
    ]
    panel = screen.panel(console)
    for part in ("held-out loss", "best 1.500 at step 2", "loss", "1.0000", "epoch", "5,120"):
        assert part in panel, part
    assert "reward" not in panel and "response" not in panel
    console.rewind(1)
    assert "2.0000" in screen.panel(console) and "1.500" not in screen.panel(console)
    console.close(RunStatus.done)


def test_a_stage_without_known_numbers_still_tells_its_pace():
    screen = Screen(tty=False)
    console = screen.open(ConsoleMode.plain)
    console.log(1, {"timing_s/step": 2.0, "odd/number": 1.0})
    assert screen.text.splitlines() == ["step  1/14  2.0 s  26 s left"]
    console.close(RunStatus.done)


class Refusing(io.StringIO):
    """What is behind the output went away, or is full."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), OSError(28, "No space left")])
def test_an_output_that_refuses_costs_the_display_and_not_the_run(runs, error):
    screen = Screen(tty=False)
    terminal = RunTerminal(file=Refusing(error), width=80)
    console = Console(run_name="x", num_steps=14, mode=ConsoleMode.plain, terminal=terminal)
    _run(screen, console, runs)
    console.close(RunStatus.done)
    assert console.mode is ConsoleMode.quiet


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_character_has_a_form_in_every_character_set(runs, encoding, monkeypatch):
    # pytest's own record of the log could not be sent between the suite's processes.
    monkeypatch.setattr(logging.getLogger("rlpost"), "propagate", False)
    written = io.BytesIO()
    terminal = RunTerminal(io.TextIOWrapper(written, encoding=encoding), width=80)
    console = Console(run_name="数", num_steps=14, mode=ConsoleMode.plain, terminal=terminal)
    _run(Screen(tty=False), console, runs)
    logging.getLogger("rlpost.x").warning("half a pair: \ud800")
    console.close(RunStatus.done)
    text = written.getvalue().decode(encoding)
    assert "half a pair: \\ud800" in text
    assert ("0.205 → 0.412" in text) == (encoding == "utf-8")
    assert ("0.205 \\u2192 0.412" in text) == (encoding != "utf-8")


def test_a_long_warning_is_wrapped(runs):
    screen = Screen(tty=True)
    console = screen.open(ConsoleMode.live)
    logging.getLogger("rlpost.x").warning("word " * 30 + "end")
    panel = screen.panel(console)
    console.close(RunStatus.done)
    assert " end " in panel and max(map(len, panel.splitlines())) == 80


def test_live_draws_and_leaves_the_terminal_clean(runs):
    screen = Screen(tty=True)
    console = screen.open(ConsoleMode.live)
    _run(screen, console, runs)
    console.close(RunStatus.interrupted)
    assert "quickstart" in screen.text
    assert screen.text.rstrip().splitlines()[-1].startswith("\x1b[?25hinterrupted after")


def test_quiet_prints_nothing(runs):
    screen = Screen(tty=True)
    console = screen.open(ConsoleMode.quiet)
    _run(screen, console, runs)
    logging.getLogger("rlpost.x").warning("careful")
    console.close(RunStatus.done)
    assert screen.text == ""


def test_a_rewind_shows_the_run_as_it_was(runs):
    screen = Screen(tty=False)
    console = screen.open(ConsoleMode.plain)
    console.rewind(-1)  # the start of a run
    _run(screen, console, runs)
    before = len(screen.text.splitlines())
    console.rewind(3)
    assert screen.text.splitlines()[before:] == ["step  3/14  back to this step"]
    with screen.terminal.capture() as capture:
        screen.terminal.print(console.panel())
    panel = capture.get()
    assert "step 3/14" in panel and "0.205" in panel
    assert "0.412" not in panel and "What is" not in panel and " left" not in panel
    console.log(4, runs.step_metrics(4))
    assert screen.text.splitlines()[-1].startswith("step  4/14  reward 0.277")
    console.close(RunStatus.done)


def test_text_from_data_is_not_markup(runs):
    screen = Screen(tty=True)
    console = screen.open(ConsoleMode.quiet)
    console.log_samples(1, [runs.sample(prompt="[bold]x[/bold] [/oops]\nnext", response="[red]9")])
    with screen.terminal.capture() as capture:
        screen.terminal.print(console.panel())
    assert "[bold]x[/bold] [/oops] next" in capture.get() and "[red]9" in capture.get()


def test_a_warning_is_shown_once_with_its_count():
    screen = Screen(tty=False)
    console = screen.open(ConsoleMode.plain)
    log = logging.getLogger("rlpost.weights.bus")
    for number in (1, 1, 2, 3, 4, 4):
        log.warning("generator %d is slow", number)
    log.info("not a warning")
    with screen.terminal.capture() as capture:
        screen.terminal.print(console.panel())
    console.close(RunStatus.failed)
    log.warning("after the end")
    assert screen.text.count("warning: generator 1 is slow") == 1
    assert "generator 4 is slow (2 times)" in capture.get()
    assert "generator 1" not in capture.get()  # the last three
    assert "after the end" not in screen.text and "not a warning" not in screen.text


def test_a_reward_that_is_no_number_does_not_break_the_panel():
    screen = Screen(tty=False)
    console = screen.open(ConsoleMode.plain)
    console.log(1, {"response_length/mean": 3.0, "critic/score/mean": float("nan")})
    screen.terminal.print(console.panel())
    console.close(RunStatus.done)
    assert "reward nan" in screen.text
