import json

import pytest

from rlpost.errors import DataError
from rlpost.tracking.files.timeline import TimelineWriter
from rlpost.tracking.report import timeline_view as module
from rlpost.tracking.report.timeline_view import timeline_view


def _named(view):
    """(lane, name, start, duration) of every span."""
    return [
        (view["lanes"][lane]["name"], name, start, duration)
        for lane, _, _, start, duration, name, _ in view["spans"]
    ]


def _lanes(view):
    return {lane["name"]: lane for lane in view["lanes"]}


def test_the_last_steps_are_shown_and_what_reaches_into_them_is_cut(tmp_path, runs):
    view = timeline_view(runs.write_trace(tmp_path / "trace.json", steps=10))
    assert (view["start_s"], view["end_s"], view["left_out"]) == (180.0, 300.0, 0)
    assert [name for lane, name, *_ in _named(view) if lane == "run"] == [
        "step 7",
        "step 8",
        "step 9",
        "step 10",
        "done",
    ]
    assert all(180.0 <= start <= start + took <= 300.0 for _, _, start, took in _named(view))
    assert [lane["name"] for lane in view["lanes"]] == [
        "run",
        "bus",
        "driver",
        "generator 0",
        "generator 1",
        "generator 10",
        "trainer",
    ]
    assert view["kinds"] == ["generator", "push", "run", "train", "wait"]
    reaching = [each for each in _named(view) if each[2] == 180.0 and "generator" in each[0]]
    assert len(reaching) == 3


def test_busy_is_the_time_of_work_counted_once(tmp_path, runs):
    lanes = _lanes(timeline_view(runs.write_trace(tmp_path / "trace.json", steps=10)))
    assert lanes["run"]["busy"] is None
    assert lanes["driver"]["busy"] == 0.0  # it only waits
    assert lanes["trainer"]["busy"] == pytest.approx(15 / 30)
    assert lanes["generator 0"]["rows"] == 2 and lanes["generator 0"]["busy"] == 1.0


def test_details_are_shown_cut(tmp_path):
    writer = TimelineWriter(tmp_path / "trace.json", clock=lambda: 0.0)
    writer.span("bus", "push v1", start_s=0.0, end_s=1.0, bytes=12, to="x" * 500)
    writer.flush()
    ((*_, name, details),) = timeline_view(tmp_path / "trace.json")["spans"]
    assert name == "push v1" and details.startswith("bytes 12, to xxx") and len(details) == 120


def test_an_evaluation_does_not_use_up_a_step(tmp_path):
    now = [0.0]
    writer = TimelineWriter(tmp_path / "trace.json", clock=lambda: now[0])
    for step in range(1, 7):
        for _ in range(2):  # the step, then its evaluation
            writer.span("trainer", "train", start_s=now[0], end_s=now[0] + 1.0)
            now[0] += 1.0
            writer.log(step, {})
    assert timeline_view(tmp_path / "trace.json")["start_s"] == 4.0


def test_it_stays_small_and_short_work_of_its_own_kind_survives(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(module, "_MAX_SPANS", 40)
    path = runs.write_trace(tmp_path / "trace.json", steps=10)
    view = timeline_view(path)
    assert len(view["spans"]) == 40 and view["left_out"] > 0
    assert len([name for _, name, *_ in _named(view) if name.startswith("push")]) == 4
    monkeypatch.setattr(module, "_MAX_SPANS", 1500)
    whole = timeline_view(path)
    assert len(whole["spans"]) == 40 + view["left_out"]
    assert whole["lanes"] == view["lanes"]  # thinning changes no number


def test_a_long_file_is_read_from_its_end(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 2000)
    view = timeline_view(runs.write_trace(tmp_path / "trace.json", steps=10))
    assert view["end_s"] == 300.0 and 10 < len(view["spans"]) < 30  # a step has 35


def test_no_work_no_picture(tmp_path):
    path = tmp_path / "trace.json"
    assert timeline_view(path) is None
    writer = TimelineWriter(path, clock=lambda: 0.0)
    writer.log(1, {})
    assert path.exists() and timeline_view(path) is None


def test_before_the_first_step_all_is_shown(tmp_path):
    writer = TimelineWriter(tmp_path / "trace.json", clock=lambda: 0.0)
    writer.span("driver", "boot", start_s=0.0, end_s=5.0)
    writer.span("driver", "nothing", start_s=5.0, end_s=5.0)
    writer.flush()
    view = timeline_view(tmp_path / "trace.json")
    assert (view["start_s"], view["end_s"]) == (0.0, 5.0)


def test_a_line_in_the_making_is_left_out(tmp_path, runs):
    path = runs.write_trace(tmp_path / "trace.json", steps=3)
    before = timeline_view(path)
    path.write_bytes(path.read_bytes() + b',\n{"ph":"X","ts":1')
    assert timeline_view(path) == before


def _without_names(text):
    lines = text.splitlines()
    return "\n".join(line for line in lines if '"ph":"M"' not in line)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: json.dumps({"traceEvents": []}),
        lambda text: text.replace('"ts"', '"t"'),
        lambda text: text.replace('{"ph":"X"', "<", 200),
        lambda text: text.replace('"name":"thread_name"', '"name"', 1),
        _without_names,
        lambda text: "[\n1,\n2",
    ],
)
def test_damage_has_an_address(tmp_path, runs, damage):
    path = runs.write_trace(tmp_path / "trace.json", steps=3)
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=r"trace\.json"):
        timeline_view(path)
