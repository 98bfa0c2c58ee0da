"""What keeps NCCL from waiting for ever and from ending a process, with a group of a test."""

import os
import threading
from typing import ClassVar

import pytest
import torch

from rlpost.weights.transports.nccl_wire import NcclGroup, NcclWire


class Group:
    """Stands for ``ProcessGroupNCCL``: each verb waits until it is let go."""

    made: ClassVar = []

    def __init__(self, store, rank, size, options):
        self.blocking_wait = os.environ.get("TORCH_NCCL_BLOCKING_WAIT")
        self.come, self.end, self.ending = (threading.Event() for _ in range(3))
        self.fails = self.is_over = False
        self.aborted = 0
        Group.made.append(self)

    class Options:
        _timeout = None

    def eager_connect_single_device(self, device):
        self.come.wait(20)
        if self.fails:
            raise RuntimeError("NCCL error")

    def abort(self):
        self.aborted += 1
        self.ending.set()
        self.end.wait(20)
        self.is_over = True


class Work:
    def __init__(self, *, done: bool, error: str = "") -> None:
        self._done, self._error = done, error

    def is_completed(self):
        return self._done

    def wait(self):
        if self._error:
            raise RuntimeError(self._error)


@pytest.fixture
def group():
    group = Group(None, 0, 2, None)
    yield group
    group.come.set()
    group.end.set()


def silent():
    """Nothing is known of a peer."""


def test_a_peer_that_does_not_come_has_a_deadline(group):
    formed = NcclGroup(group, timeout_s=0.2)
    with pytest.raises(RuntimeError, match=r"not all members came in 0\.2 s"):
        formed.connect(torch.device("cpu"))
    group.come.set()
    formed.connect(torch.device("cpu"))
    group.fails = True
    with pytest.raises(RuntimeError, match="NCCL error"):
        formed.connect(torch.device("cpu"))


def test_a_bucket_has_a_deadline_and_what_went_wrong_is_raised(group):
    formed = NcclGroup(group, timeout_s=0.2)
    with pytest.raises(RuntimeError, match=r"a bucket did not arrive in 0\.2 s"):
        formed.wait(Work(done=False), look=silent)
    with pytest.raises(RuntimeError, match="remote error"):
        formed.wait(Work(done=True, error="remote error"), look=silent)
    formed.wait(Work(done=True), look=silent)


def test_a_peer_that_is_gone_is_learnt_before_the_deadline(group):
    def look():
        raise RuntimeError("the worker that receives for left is gone")

    with pytest.raises(RuntimeError, match="left is gone"):  # not: did not arrive in 60 s
        NcclGroup(group, timeout_s=60.0).wait(Work(done=False), look=look)


def test_a_group_is_dropped_at_once_although_kernels_take_a_while_to_end(group):
    formed = NcclGroup(group, timeout_s=60.0)
    formed.drop()
    formed.drop()  # harmless
    assert not group.is_over
    assert group.ending.wait(60) and group.aborted == 1  # by a thread of its own


@pytest.mark.parametrize("before", [None, "0"])
def test_no_watchdog_of_torch_ends_the_process_of_a_stream(monkeypatch, before):
    """And other groups of the process keep theirs."""
    name = "TORCH_NCCL_BLOCKING_WAIT"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    monkeypatch.setattr(torch.distributed, "ProcessGroupNCCL", Group, raising=False)
    wire = NcclWire(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="not all members came"):
        wire.group(None, host="127.0.0.1", rank=0, num_ranks=2, timeout_s=0.1)
    made = Group.made[-1]
    assert made.blocking_wait == "1" and os.environ.get(name) == before
    assert made.ending.wait(60) and made.aborted == 1  # what did not form is ended
    made.come.set()
    made.end.set()
