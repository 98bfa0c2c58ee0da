"""No panel names a metric that no run records, and panels can be told apart."""

import ast
import re
from pathlib import Path

import pytest

import rlpost
from rlpost.stages.registry import STAGES
from rlpost.tracking.curves.panel import Panel
from rlpost.tracking.curves.table import STAGE_SECTIONS, sections_of

ROOMS = (
    "algorithms",
    "cluster",
    "control",
    "evaluation",
    "rollout",
    "stages",
    "training",
    "verifiers",
    "weights",
)
STAGE_NAMES = [name for name in STAGE_SECTIONS if name in STAGES]
PANELS = [panel for section in sections_of(STAGE_NAMES) for panel in section.panels]


class Recorded:
    """The metric names that the rooms which measure can make: their strings and f-strings."""

    def __init__(self):
        self.words, self.patterns, self.timed = set(), set(), set()
        for room in ROOMS:
            for path in (Path(rlpost.__file__).parent / room).rglob("*.py"):
                for node in ast.walk(ast.parse(path.read_text())):
                    self._take(node)

    def _take(self, node):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.words.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [re.escape(part.value) if isinstance(part, ast.Constant) else HOLE
                     for part in node.values]  # fmt: skip
            if re.search("[a-z]{2}", "".join(parts).replace(HOLE, "")):
                self.patterns.add("".join(parts))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in TIMERS and node.args:
            self.timed.add(getattr(node.args[0], "value", None))

    def __contains__(self, name):
        if name.startswith("timing_s/"):
            return name in self.words or name.removeprefix("timing_s/") in self.timed
        stem, _, end = name.rpartition("/")
        if name in self.words or (end in ("mean", "max", "min") and stem in self.words):
            return True
        for pattern in self.patterns:
            found = re.fullmatch(pattern, name)
            # What fills a hole in front is a prefix that the code spells out.
            if found and (not pattern.startswith(HOLE) or found[1] in self.words):
                return True
        return False


HOLE, TIMERS = r"([\w/@-]+)", ("timed", "add_time", "_timed")


@pytest.fixture(scope="module")
def recorded():
    return Recorded()


LIKE = (  # what a pattern stands for
    "val-core/arithmetic/acc/mean@2",
    "val-aux/arithmetic/correct/mean@2",
    "training/off_policy/staleness/1",
    "training/off_policy/drop_rate/q4",
    "verifier/math/error_rate",
    "verifier/math/timeout_rate",
    "verifier/math/latency_s",
    "verifier/math/mean",
    "cost/tokens/trained/code",
    "sft/heldout_loss/code",
    "sft/heldout_perplexity/code",
    "pretrain/heldout_loss/code",
    "pretrain/heldout_perplexity/code",
    "preference/heldout_accuracy/code",
    "preference/heldout_loss/code",
    "preference/heldout_margin/code",
    "distill/heldout_loss/code",
    "distill/heldout_agreement/code",
    "reward/heldout_accuracy/code",
    "reward/heldout_step_accuracy",
    "reward/heldout_loss/code",
    "reward/heldout_reliability/90-100",
    "reward/heldout_calibration_error/code",
    "reward/heldout_length_correlation/code",
    "reward/length_correlation",
    "reward/heldout_right_steps",
    "adapter/gradient_outside/q_proj",
    "adapter/update_rank/q_proj",
)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_shows_what_is_recorded(panel, recorded):
    patterned = [name for name in LIKE if panel.pattern and re.fullmatch(panel.pattern, name)]
    names = [*panel.curves, *(panel.band or ()), *patterned]
    assert names, "a pattern needs an example in LIKE"
    assert [name for name in names if name not in recorded] == []


def test_the_look_up_knows_what_is_not_recorded(recorded):
    for name in (
        "critic/scores/mean",
        "timing_s/generate",
        "perf/tokens",
        "actor/kl_los",
        "timing_s/save",
    ):
        assert name not in recorded, name


def test_names_of_a_synthetic_run_are_known_to_the_look_up(recorded, runs):
    unknown = {name for name in runs.step_metrics(1) if name not in recorded}
    assert not unknown


def test_every_stage_with_a_loop_has_curves():
    assert STAGES.keys() <= STAGE_SECTIONS.keys()


def test_titles_tell_panels_and_sections_apart():
    sections = sections_of()
    titles = [panel.title for section in sections for panel in section.panels]
    titles += [panel.graded.title for section in sections for panel in section.panels
               if panel.graded]  # fmt: skip
    assert len(set(titles)) == len(titles) and "Any" not in titles
    assert len({section.title for section in sections}) == len(sections)
    assert all(re.fullmatch(r"[A-Za-z' |?-]+", title) for title in titles)  # they become ids


def test_sections_of_one_stage_leave_out_those_of_others():
    titles = [section.title for section in sections_of(["sft"])]
    assert titles == [
        "Does sft learn?",
        "Is the adapter large enough?",
        "Where does the time go?",
        "What did it cost?",
    ]


@pytest.mark.parametrize(("curves", "pattern"), [({}, None), ({"a": "a"}, "b")])
def test_a_panel_has_names_or_a_pattern(curves, pattern):
    with pytest.raises(AssertionError):
        Panel(title="x", unit="x", help="x", curves=curves, pattern=pattern)
