import json

import pytest

from rlpost.errors import RunFailed
from rlpost.tracking.files.rollouts import RolloutWriter, rollout_files


def test_a_file_per_step_a_line_per_sample(tmp_path, runs):
    writer = RolloutWriter(tmp_path / "rollouts")
    writer.log_samples(3, [runs.sample(index=0), runs.sample(index=1, response="a\u2028b\nc")])
    path = tmp_path / "rollouts" / "step_000003.jsonl"
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert [row["sample"] for row in rows] == [0, 1]
    assert rows[1]["response"] == "a\u2028b\nc"


def test_a_failed_write_leaves_the_old_file(tmp_path, runs):
    writer = RolloutWriter(tmp_path)
    writer.log_samples(1, [runs.sample()])
    before = (tmp_path / "step_000001.jsonl").read_text()
    (tmp_path / "step_000002.jsonl").mkdir()  # the rename onto it fails
    with pytest.raises(RunFailed, match="cannot be written"):
        writer.log_samples(2, [runs.sample()])
    assert (tmp_path / "step_000001.jsonl").read_text() == before
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == [
        "step_000001.jsonl"
    ]


def test_resume_removes_later_steps_and_leftovers_only(tmp_path, runs):
    writer = RolloutWriter(tmp_path)
    for step in (1, 2, 3, 1_000_000):
        writer.log_samples(step, [runs.sample()])
    (tmp_path / ".step_000004.jsonl.x").write_text("half")
    (tmp_path / "notes.txt").write_text("mine")
    writer.rewind(2)
    assert list(rollout_files(tmp_path)) == [1, 2]
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "notes.txt",
        "step_000001.jsonl",
        "step_000002.jsonl",
    ]


def test_files_come_in_order_of_steps(tmp_path, runs):
    writer = RolloutWriter(tmp_path)
    for step in (1_000_000, 20, 3):
        writer.log_samples(step, [])
    assert list(rollout_files(tmp_path)) == [3, 20, 1_000_000]
    assert rollout_files(tmp_path / "absent") == {}
