import pytest

from rlpost.tracking.tracker import Phase, RunStatus, Trackers


class Recorder:
    def __init__(self, calls, name, *, broken=False):
        self.calls, self.name, self.broken = calls, name, broken

    def log(self, step, metrics):
        self.calls.append((self.name, "log", step, dict(metrics)))

    def log_samples(self, step, samples):
        self.calls.append((self.name, "samples", step, len(samples)))

    def rewind(self, step):
        self.calls.append((self.name, "rewind", step))

    def span(self, lane, name, *, start_s, end_s, **details):
        self.calls.append((self.name, "span", lane, name, start_s, end_s, details))

    def close(self, status):
        self.calls.append((self.name, "close", status))
        if self.broken:
            raise OSError("disk full")

    def phase(self, phase, detail=""):
        self.calls.append((self.name, "phase", phase, detail))


def test_everyone_is_told_everything_in_order(runs):
    calls = []
    console, timeline = Recorder(calls, "console"), Recorder(calls, "timeline")
    trackers = Trackers([Recorder(calls, "a")], console=console, timeline=timeline)
    trackers.phase(Phase.generating, "waiting for 3")
    trackers.span("bus", "push v3", start_s=1.0, end_s=2.5, bytes=7)
    trackers.log(1, {"x": 2.0})
    trackers.log_samples(1, [runs.sample()])
    trackers.rewind(0)
    trackers.close(RunStatus.done)
    assert calls == [
        ("console", "phase", Phase.generating, "waiting for 3"),
        ("timeline", "span", "bus", "push v3", 1.0, 2.5, {"bytes": 7}),
        ("timeline", "log", 1, {"x": 2.0}),  # first: the report reads what it flushes
        ("a", "log", 1, {"x": 2.0}),
        ("console", "log", 1, {"x": 2.0}),
        ("timeline", "samples", 1, 1),
        ("a", "samples", 1, 1),
        ("console", "samples", 1, 1),
        ("timeline", "rewind", 0),
        ("a", "rewind", 0),
        ("console", "rewind", 0),
        ("timeline", "close", RunStatus.done),
        ("a", "close", RunStatus.done),
        ("console", "close", RunStatus.done),
    ]


def test_one_that_cannot_close_does_not_keep_the_others_open():
    calls = []
    sinks = [Recorder(calls, "a", broken=True), Recorder(calls, "b")]
    with pytest.raises(OSError, match="disk full"):
        Trackers(sinks).close(RunStatus.failed)
    assert [call[0] for call in calls] == ["a", "b"]


def test_phases_need_no_console_and_spans_no_timeline():
    Trackers([]).phase(Phase.training)
    Trackers([]).span("trainer", "train", start_s=0.0, end_s=1.0)
