import json
import logging
import resource
from contextlib import contextmanager

import pytest

from rlpost.errors import DataError, RunFailed
from rlpost.tracking.files.jsonl import MetricsWriter, read_metrics
from rlpost.tracking.tracker import RunStatus


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def test_a_step_is_one_flat_object(path):
    clock = Clock()
    writer = MetricsWriter(path, clock=clock)
    writer.log(0, {"val-core/a/acc/mean@1": 0.25})
    clock.now = 112.5
    writer.log(1, {"critic/score/mean": 0.5, "weights/version": 2})
    assert path.read_text() == (
        '{"step": 0, "time_s": 0.0, "val-core/a/acc/mean@1": 0.25}\n'
        '{"step": 1, "time_s": 12.5, "critic/score/mean": 0.5, "weights/version": 2}\n'
    )


def test_a_second_call_extends_the_line_of_the_step(path):
    writer = MetricsWriter(path, clock=Clock())
    writer.log(1, {"a": 1.2345})
    writer.log(1, {"b": 2.0})
    writer.log(1, {"a": 1.0})  # a shorter line than before
    writer.log(2, {"a": 3.0})
    assert read_metrics(path) == [
        {"step": 1, "time_s": 0.0, "a": 1.0, "b": 2.0},
        {"step": 2, "time_s": 0.0, "a": 3.0},
    ]


def test_extending_works_after_reopening(path):
    writer = MetricsWriter(path, clock=Clock())
    writer.log(1, {"a": 1.0})
    writer.log(2, {"a": 2.0})
    writer.close(RunStatus.interrupted)
    MetricsWriter(path, clock=Clock()).log(2, {"b": 3.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "time_s": 0.0, "a": 1.0},
        {"step": 2, "time_s": 0.0, "a": 2.0, "b": 3.0},
    ]


def test_steps_never_decrease(path):
    writer = MetricsWriter(path)
    writer.log(2, {})
    with pytest.raises(AssertionError):
        writer.log(1, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_is_null_and_warned_about(path, caplog, value):
    with caplog.at_level(logging.WARNING, logger="rlpost"):
        MetricsWriter(path).log(3, {"actor/grad_norm": value, "fine": 1.0})
    assert "actor/grad_norm" in caplog.text and "step 3" in caplog.text
    assert "fine" not in caplog.text

    def refuse(constant):
        raise AssertionError(constant)

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row["actor/grad_norm"] is None and row["fine"] == 1.0


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_line_cut_by_a_kill_is_repaired(path, cut, caplog):
    writer = MetricsWriter(path, clock=Clock())
    writer.log(1, {"a": 1.0})
    writer.log(2, {"a": 2.0})
    writer.close(RunStatus.failed)
    path.write_bytes(path.read_bytes()[:-cut])
    assert [row["step"] for row in read_metrics(path)] == [1]  # a reader leaves it out
    writer = MetricsWriter(path, clock=Clock())
    assert "unfinished" in caplog.text
    writer.log(2, {"a": 5.0})
    assert [row["a"] for row in read_metrics(path)] == [1.0, 5.0]


def test_resume_drops_later_steps_and_time_goes_on(path):
    clock = Clock()
    writer = MetricsWriter(path, clock=clock)
    for step in range(5):
        clock.now = 100.0 + 10 * step
        writer.log(step, {"a": float(step)})
    writer.close(RunStatus.interrupted)
    clock.now = 5000.0  # another process, much later
    writer = MetricsWriter(path, clock=clock)
    writer.rewind(2)
    clock.now = 5007.0
    writer.log(3, {"a": 30.0})
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1] == {"step": 3, "time_s": 27.0, "a": 30.0}
    assert [each.name for each in path.parent.iterdir()] == ["metrics.jsonl"]


def test_truncating_everything_starts_afresh(path):
    writer = MetricsWriter(path, clock=Clock())
    writer.log(7, {"a": 1.0})
    writer.rewind(-1)
    assert path.read_text() == ""
    writer.log(0, {"a": 2.0})
    assert read_metrics(path) == [{"step": 0, "time_s": 0.0, "a": 2.0}]


def test_a_rewind_of_the_open_file_lets_its_steps_come_again(path):
    clock = Clock()
    writer = MetricsWriter(path, clock=clock)
    for step in range(1, 5):
        clock.now += 10.0
        writer.log(step, {"a": float(step)})
    clock.now += 100.0
    with pytest.raises(AssertionError):  # without it they must not
        writer.log(3, {"a": 30.0})
    writer.rewind(2)
    clock.now += 5.0
    writer.log(2, {"val": 1.0})  # the step itself can still be added to
    writer.log(3, {"a": 30.0})
    assert read_metrics(path) == [
        {"step": 1, "time_s": 10.0, "a": 1.0},
        {"step": 2, "time_s": 25.0, "a": 2.0, "val": 1.0},
        {"step": 3, "time_s": 25.0, "a": 30.0},
    ]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"time_s": 1.0}', '{"step": 1}'])
def test_a_damaged_line_has_an_address(path, line):
    path.parent.mkdir()
    path.write_text('{"step": 0, "time_s": 0.0}\n' + line + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: "):
        read_metrics(path)


@contextmanager
def largest_file(size):
    """What is written beyond ``size`` bytes is refused, after a part of it was taken."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("step", [2, 3], ids=["same step", "next step"])
def test_a_line_without_room_leaves_the_file_as_it_was(path, step):
    writer = MetricsWriter(path, clock=Clock())
    writer.log(1, {"a": 1.0})
    writer.log(2, {"a": 2.0})
    before = path.read_bytes()
    many = {f"name/{number}": 1.0 for number in range(100)}
    with (
        largest_file(len(before) + 50),
        pytest.raises(RunFailed, match="be written"),
    ):
        writer.log(step, many)
    assert path.read_bytes() == before
    writer.log(step, many)  # there is room again
    assert [row["step"] for row in read_metrics(path)] == sorted({1, 2, step})
    assert read_metrics(path)[-1]["name/99"] == 1.0
