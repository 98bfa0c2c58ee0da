"""Tensors in the files of several writers: where files are cut, what is joined, what is refused."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from rlpost.checkpoint.store import CheckpointStore
from rlpost.errors import DataError, UserError
from rlpost.training.zero import shards
from rlpost.training.zero.shards import Shards, TensorPart, write_shards

WHOLE = torch.arange(12.0).view(4, 3)


def write(directory, *, writer: int = 0, parts=None, **tensors: torch.Tensor) -> None:
    write_shards(tensors, parts or {}, directory, writer=writer)


def write_part(directory, *, writer: int, start: int, stop: int, shape=(4, 3)) -> None:
    part = TensorPart(start=start, shape=shape)
    write(directory, writer=writer, parts={"p": part}, p=WHOLE.reshape(-1)[start:stop].clone())


def test_files_are_cut_at_their_size_and_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)
    tensors = {f"p{i}": WHOLE + i for i in range(4)}
    write(tmp_path, writer=0, **tensors)
    write(tmp_path, writer=1, s=torch.tensor(7.0))
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "state_000_000.safetensors",
        "state_000_001.safetensors",
        "state_001_000.safetensors",
    ]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in tmp_path.iterdir())
    found = Shards(tmp_path)
    found.check({"s": ()} | dict.fromkeys(tensors, (4, 3)))
    for start in range(12):
        for stop in range(start + 1, 13):
            expected = tensors["p2"].reshape(-1)[start:stop]
            assert torch.equal(found.read("p2", (start, stop)), expected), (start, stop)
    assert found.read("s", (0, 1)).tolist() == [7.0]


def test_parts_of_several_writers_are_read_as_one(tmp_path):
    # Neither in order nor at the ends of rows.
    for writer, (start, stop) in enumerate([(7, 12), (0, 2), (2, 7)]):
        write_part(tmp_path, writer=writer, start=start, stop=stop)
    found = Shards(tmp_path)
    found.check({"p": (4, 3)})
    for start in range(12):
        for stop in range(start + 1, 13):
            expected = WHOLE.reshape(-1)[start:stop]
            assert torch.equal(found.read("p", (start, stop)), expected), (start, stop)
    assert torch.equal(found.read("p", None), WHOLE.reshape(-1))


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([(0, 5)], "the elements from 5 on"),
        ([(5, 12)], "the elements from 0 on"),
        ([(0, 5), (6, 12)], "the elements from 5 on"),
        ([(0, 5), (4, 12)], "the elements from 5 on"),  # of another number of ranks
        ([(0, 6), (6, 12), (6, 12)], "the elements from 12 on"),
        ([(0, 12), (0, 12)], "the elements from 12 on"),
    ],
)
def test_a_part_that_is_missing_or_twice_there_is_refused(tmp_path, present, message):
    for writer, (start, stop) in enumerate(present):
        write_part(tmp_path, writer=writer, start=start, stop=stop)
    with pytest.raises(DataError, match=message):
        Shards(tmp_path).check({"p": (4, 3)})


def test_parts_of_a_tensor_of_another_shape_are_refused(tmp_path):
    write_part(tmp_path, writer=0, start=0, stop=12, shape=(3, 4))
    with pytest.raises(UserError, match=r"'p' has shape \(3, 4\), this model's has \(4, 3\)"):
        Shards(tmp_path).check({"p": (4, 3)})


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ({"a": (4,), "b": (2,), "c": (1,)}, DataError, "lacks 'c' and 0 others of 3"),
        ({"a": (4,)}, UserError, "holds 'b', which this model has not"),
        ({"a": (2, 2), "b": (2,)}, UserError, r"'a' has shape \(4,\), this model's has \(2, 2\)"),
    ],
)
def test_the_state_of_another_model_is_refused(tmp_path, shapes, error, message):
    write(tmp_path, a=torch.zeros(4), b=torch.zeros(2))
    Shards(tmp_path).check({"a": (4,), "b": (2,)})
    with pytest.raises(error, match=message):
        Shards(tmp_path).check(shapes)


def test_a_damaged_file_is_named(tmp_path):
    write(tmp_path, a=torch.zeros(4))
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match=path.name):
        Shards(tmp_path)


WRITER = """
import os, signal, sys
from pathlib import Path
import torch
from rlpost.training.zero.shards import TensorPart, write_shards
directory, kill = Path(sys.argv[1]), sys.argv[2] == "kill"
values = torch.arange(12.0).split(6)
write_shards({"p": values[0]}, {"p": TensorPart(start=0, shape=(4, 3))}, directory, writer=0)
if kill:
    os.kill(os.getpid(), signal.SIGKILL)
write_shards({"p": values[1]}, {"p": TensorPart(start=6, shape=(4, 3))}, directory, writer=1)
"""


def test_a_writer_that_is_killed_between_two_parts_leaves_the_last_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    codes = []
    for step, what in ((1, "finish"), (2, "kill")):
        scratch = store.begin(step)
        codes.append(subprocess.run([sys.executable, "-c", WRITER, scratch, what]).returncode)
        if codes[-1] == 0:
            store.commit(scratch, step=step, config_hash="h")
    assert codes == [0, -signal.SIGKILL]
    # What the killed one left is not complete, and nobody takes it for a checkpoint.
    with pytest.raises(DataError, match="the elements from 6 on"):
        Shards(scratch).check({"p": (4, 3)})
    again = CheckpointStore(tmp_path / "checkpoints")
    path = again.latest()
    assert path is not None and path.name == "step_000001"
    Shards(path).check({"p": (4, 3)})
    # One of its files taken away, and it is none either.
    os.unlink(path / "state_001_000.safetensors")
    assert again.latest() is None
