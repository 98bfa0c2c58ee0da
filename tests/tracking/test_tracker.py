import pytest

from rlpost.tracking.tracker import Phase, RunStatus, Trackers


class Recorder:
    def __init__(self, calls, name, *, broken=False):
        self.calls, self.name, self.broken = calls, name, broken

    def log(self, step, metrics):
        self.calls.append((self.name, "log", step, dict(metrics)))

    def log_samples(self, step, samples):
        self.calls.append((self.name, "samples", step, len(samples)))

    def close(self, status):
        self.calls.append((self.name, "close", status))
        if self.broken:
            raise OSError("disk full")

    def phase(self, phase, detail=""):
        self.calls.append((self.name, "phase", phase, detail))


def test_everyone_is_told_everything_in_order(runs):
    calls = []
    trackers = Trackers([Recorder(calls, "a")], console=Recorder(calls, "console"))
    trackers.phase(Phase.generating, "waiting for 3")
    trackers.log(1, {"x": 2.0})
    trackers.log_samples(1, [runs.sample()])
    trackers.close(RunStatus.done)
    assert calls == [
        ("console", "phase", Phase.generating, "waiting for 3"),
        ("a", "log", 1, {"x": 2.0}),
        ("console", "log", 1, {"x": 2.0}),
        ("a", "samples", 1, 1),
        ("console", "samples", 1, 1),
        ("a", "close", RunStatus.done),
        ("console", "close", RunStatus.done),
    ]


def test_one_that_cannot_close_does_not_keep_the_others_open():
    calls = []
    sinks = [Recorder(calls, "a", broken=True), Recorder(calls, "b")]
    with pytest.raises(OSError, match="disk full"):
        Trackers(sinks).close(RunStatus.failed)
    assert [call[0] for call in calls] == ["a", "b"]


def test_phases_need_no_console():
    Trackers([]).phase(Phase.training)
