import json
import logging
import time

import pytest

from rlpost.tracking.files.timeline import TimelineWriter, kind_of, row_names
from rlpost.tracking.tracker import RunStatus


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "trace.json"


@pytest.fixture
def clock():
    return Clock()


def _events(path):
    """The file as a viewer reads it, with the bracket that the format makes optional."""
    return json.loads(path.read_text() + "]")


def _spans(path, lane=None):
    """(row, name, start, end) of the spans in microseconds."""
    names = row_names(path.read_bytes())
    return [
        (names[event["tid"]], event["name"], event["ts"], event["ts"] + event["dur"])
        for event in _events(path)
        if event["ph"] == "X" and lane in (None, names[event["tid"]])
    ]


def _write_some(path, clock, steps):
    writer = TimelineWriter(path, clock=clock)
    for step in steps:
        start = clock.now
        clock.now += 10.0
        writer.span("trainer", "train", start_s=start, end_s=clock.now)
        writer.log(step, {})
    return writer


def test_a_span_is_a_complete_event_in_microseconds_under_the_name_of_its_lane(path, clock):
    writer = TimelineWriter(path, clock=clock)
    writer.span("generator 0", "0:17", start_s=101.5, end_s=103.25, tokens=512, engine="a")
    writer.flush()
    assert _events(path) == [
        {
            "ph": "M",
            "name": "thread_name",
            "pid": 1,
            "tid": 1,
            "args": {"name": "generator 0"},
        },
        {
            "ph": "X",
            "ts": 1_500_000,
            "dur": 1_750_000,
            "pid": 1,
            "tid": 1,
            "cat": "generator",
            "name": "0:17",
            "args": {"tokens": 512, "engine": "a"},
        },
    ]


def test_the_file_is_json_after_every_flush_and_only_grows(path, clock):
    writer = TimelineWriter(path, clock=clock)
    before = b""
    for step in range(5):
        start, clock.now = clock.now, clock.now + 1.0
        writer.span("bus", f"push v{step}", start_s=start, end_s=clock.now)
        assert path.exists() == (step > 0)  # buffered until the step is logged
        writer.log(step, {})
        assert path.read_bytes().startswith(before)
        before = path.read_bytes()
        assert len(_spans(path, "bus")) == len(_spans(path, "run")) == step + 1
    with pytest.raises(ValueError):  # the bracket is the only thing missing
        json.loads(path.read_text())


def test_a_long_step_is_not_kept_in_memory(path, clock):
    writer = TimelineWriter(path, clock=clock)
    for _ in range(100):
        writer.span("bus", "push", start_s=100.0, end_s=100.0, text="x" * 20_000)
    assert path.stat().st_size > 1_000_000


def test_what_json_cannot_carry_becomes_text(path, clock):
    writer = TimelineWriter(path, clock=clock)
    details = {"nan": float("nan"), "path": path, "half": "\ud800", "newline": "a\nb"}
    writer.span('la"ne', "na\nme", start_s=100.0, end_s=101.0, **details)
    writer.flush()
    (event,) = [each for each in _events(path) if each["ph"] == "X"]
    assert event["args"] == {"nan": "nan", "path": str(path), "half": "\ud800", "newline": "a\nb"}
    assert path.read_text().count("\n") == 2  # one line an event: what repairing relies on
    TimelineWriter(path, clock=clock)
    assert len(_spans(path)) == 1


def test_what_overlaps_lies_in_rows_of_its_own(path, clock):
    writer = TimelineWriter(path, clock=clock)
    for name, start, end in (("a", 0, 4), ("b", 1, 5), ("c", 4, 6), ("d", 2, 7), ("e", 6, 8)):
        writer.span("generator 1", name, start_s=100.0 + start, end_s=100.0 + end)
    writer.flush()
    spans = _spans(path)
    assert {name: row for row, name, *_ in spans} == {
        "a": "generator 1",
        "b": "generator 1 #2",
        "c": "generator 1",
        "d": "generator 1 #3",
        "e": "generator 1",
    }


def test_a_span_that_ends_before_it_starts_is_our_bug(path, clock):
    with pytest.raises(AssertionError):
        TimelineWriter(path, clock=clock).span("a", "b", start_s=2.0, end_s=1.0)


@pytest.mark.parametrize(
    ("lane", "name", "kind"),
    [
        ("trainer", "train", "train"),
        ("driver", "wait for batch", "wait"),
        ("bus", "push v3", "push"),
        ("trainer", "old_log_prob", "old_log_prob"),
        ("generator 0", "0:17", "generator"),
        ("7", "0:17", "7"),
        ("run", "step 3", "run"),
    ],
)
def test_the_kind_of_work_is_the_first_word(lane, name, kind):
    assert kind_of(lane, name) == kind


def test_a_resume_goes_on_after_the_earlier_end(path, clock):
    _write_some(path, clock, [1, 2]).close(RunStatus.interrupted)
    before = path.read_bytes()
    clock.now = 3.0  # another machine, another clock
    writer = TimelineWriter(path, clock=clock)
    writer.rewind(2)
    writer.span("trainer", "load", start_s=1.0, end_s=4.0)  # began before this process's file
    clock.now = 13.0
    writer.span("trainer", "train", start_s=5.0, end_s=13.0)
    writer.log(3, {})
    assert path.read_bytes().startswith(before)
    assert [span[1:] for span in _spans(path, "trainer")] == [
        ("train", 0, 10_000_000),
        ("train", 10_000_000, 20_000_000),
        ("load", 20_000_000, 21_000_000),
        ("train", 22_000_000, 30_000_000),
    ]
    assert [span[1] for span in _spans(path, "run")] == [
        "step 1",
        "step 2",
        "interrupted",
        "back to step 2",
        "step 3",
    ]
    assert len(row_names(path.read_bytes())) == 2  # no second row of a name


@pytest.mark.parametrize("cut", [1, 2, 30, 60])
def test_an_end_that_a_kill_cut_is_repaired(path, clock, cut, caplog):
    _write_some(path, clock, [1, 2]).flush()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.raises(ValueError):  # negative control: it is damaged
        _events(path)
    writer = TimelineWriter(path, clock=clock)
    assert "removed an incomplete event" in caplog.text
    assert whole.startswith(path.read_bytes())
    writer.span("trainer", "train", start_s=clock.now, end_s=clock.now + 1.0)
    writer.flush()
    assert [span[1] for span in _spans(path, "trainer")] == ["train"] * 3
    assert [span[1] for span in _spans(path, "run")] == ["step 1"]


def test_a_bracket_added_by_a_person_is_taken_off(path, clock):
    _write_some(path, clock, [1]).flush()
    whole = path.read_bytes()
    path.write_bytes(whole + b"\n]\n")
    TimelineWriter(path, clock=clock)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content", [b"", b"[", b"[\n", b"[\n{", b'{"traceEvents": []}', b"\0" * 99]
)
def test_a_file_without_a_whole_event_starts_afresh(path, clock, content):
    path.parent.mkdir()
    path.write_bytes(content)
    writer = TimelineWriter(path, clock=clock)
    writer.span("a", "b", start_s=100.0, end_s=101.0)
    writer.flush()
    assert _spans(path) == [("a", "b", 0, 1_000_000)]


def test_the_file_is_bounded_and_the_work_goes_on_longer_than_items(path, clock, caplog):
    writer = TimelineWriter(path, clock=clock, limit_bytes=20_000)
    sizes = []
    for count in range(600):
        clock.now += 1.0
        writer.span("generator 0", f"0:{count}", start_s=clock.now - 1.0, end_s=clock.now)
        if count % 2:
            writer.span("bus", f"push v{count}", start_s=clock.now - 1.0, end_s=clock.now)
        writer.flush()
        sizes.append(path.stat().st_size)
    assert max(sizes) >= 20_000 and sizes[-1] == sizes[-2] < 40_500
    items, pushes = _spans(path, "generator 0"), _spans(path, "bus")
    assert items[-1][3] < pushes[-1][3]
    warned = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warned) == 2
    assert "20000 bytes: no more single samples and groups" in warned[0]
    assert "40000 bytes: no more spans of time" in warned[1]


def test_the_bound_counts_what_an_earlier_process_wrote(path, clock, caplog):
    _write_some(path, clock, range(1, 50)).close(RunStatus.interrupted)
    size = path.stat().st_size
    writer = TimelineWriter(path, clock=clock, limit_bytes=size // 2)
    writer.span("bus", "push", start_s=clock.now, end_s=clock.now)
    writer.flush()
    assert path.stat().st_size == size and "no more" in caplog.text


def test_a_rewind_keeps_what_was_done(path, clock):
    writer = _write_some(path, clock, [1, 2, 3])
    before = path.read_bytes()
    clock.now += 5.0
    writer.rewind(1)
    assert path.read_bytes().startswith(before)
    assert _spans(path, "run")[-1] == ("run", "back to step 1", 30_000_000, 35_000_000)


def test_before_the_first_span_there_is_nothing_to_go_back_to(path, clock):
    writer = TimelineWriter(path, clock=clock)
    writer.rewind(-1)
    writer.close(RunStatus.done)
    assert not path.exists()


def test_a_disk_that_refuses_costs_one_warning(path, clock, caplog):
    path.mkdir(parents=True)  # neither readable nor writable as a file
    writer = _write_some(path, clock, [1, 2, 3])
    writer.close(RunStatus.done)
    assert caplog.text.count("the run goes on") == 1

    path.rmdir()
    caplog.clear()
    writer = _write_some(path, clock, [1])
    path.unlink()
    path.mkdir()
    for step in (2, 3):
        writer.log(step, {})
    assert caplog.text.count("the run goes on") == 1


def test_a_span_costs_no_more_than_some_lines_of_json(path, clock):
    """So that thousands a minute cost less than one percent of a core."""
    writer = TimelineWriter(path, clock=clock)
    event = {"ph": "X", "ts": 10**9, "dur": 10**6, "pid": 1, "tid": 2, "cat": "a", "name": "0:100"}
    begin_s = time.thread_time()
    for count in range(5000):
        json.dumps({**event, "ts": count})
    middle_s = time.thread_time()
    for count in range(5000):
        begun, clock.now = clock.now, clock.now + 0.012
        writer.span(f"generator {count % 4}", f"0:{count}", start_s=begun - 1.0, end_s=clock.now)
    writer.log(1, {})
    assert time.thread_time() - middle_s < 15 * (middle_s - begin_s)
    assert len(_spans(path)) == 5001
