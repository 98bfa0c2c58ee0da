"""Which mappings a device knows and when one may be filled again: all but CUDA's two calls."""

import logging
from contextlib import closing
from pathlib import Path

import pytest
import torch
from streams import Streamed

from rlpost.weights.manifest import write_payload
from rlpost.weights.transports.host_pages import HostPages, host_pages
from rlpost.weights.transports.protocol import Locator
from rlpost.weights.transports.ring import RingReader
from rlpost.weights.transports.shared_memory import SharedMemoryReceiver, SharedMemorySender

SIZE = 5000


class Device:
    """What registers pages; see ``host_pages.PageRegistry``."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.registered: list[int] = []  # now
        self.calls: list[str] = []

    def register(self, pages):
        self.calls.append("register")
        if self.refuses:
            raise RuntimeError("cudaHostRegister failed: out of memory")
        assert pages.data_ptr() not in self.registered
        self.registered.append(pages.data_ptr())

    def unregister(self, pages):
        assert is_mapped(pages.data_ptr()), "CUDA would take what is mapped there next for it"
        self.registered.remove(pages.data_ptr())

    def settle(self):
        self.calls.append("settle")


def is_mapped(address: int) -> bool:
    ranges = (
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().split("\n")[:-1]
    )
    return any(int(start, 16) <= address < int(end, 16) for start, end in ranges)


def test_a_file_is_registered_once_whatever_its_name(tmp_path):
    device = Device()
    pages = HostPages(device)
    first = pages.of(tmp_path / "v1", SIZE)
    (tmp_path / "v1").rename(tmp_path / "v2")
    assert pages.of(tmp_path / "v2", SIZE) is first
    pages.of(tmp_path / "v1", SIZE)
    assert len(device.registered) == 2
    address = first.data_ptr()
    del first
    assert is_mapped(address)  # it is registered
    (tmp_path / "v2").unlink()
    pages.drop_removed()
    assert len(device.registered) == 1 and not is_mapped(address)
    pages.close()
    assert device.registered == []


def test_what_is_refused_is_used_as_it_is_and_said_once(tmp_path, caplog):
    pages = HostPages(Device(refuses=True))
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b", "a"):
            pages.of(tmp_path / name, SIZE)[7] = 9
    (line,) = caplog.messages
    assert "cannot be registered with CUDA" in line and "out of memory" in line
    assert HostPages().of(tmp_path / "b", SIZE)[7] == 9
    pages.settle()  # CUDA has copied before it returned
    pages.close()
    assert pages._registry.calls == ["register"] * 2


def test_without_a_device_nothing_outlives_its_use(tmp_path):
    pages = host_pages(torch.device("cpu"))
    address = pages.of(tmp_path / "a", SIZE).data_ptr()
    assert not is_mapped(address)


def test_both_ends_of_shared_memory_register_two_files_however_many_versions(tmp_path):
    sends, receives = Device(), Device()
    sender = SharedMemorySender(run_id=tmp_path.name, pages=HostPages(sends))
    receiver = SharedMemoryReceiver(HostPages(receives))
    for version in range(1, 6):
        tensors = {"x": torch.full((100,), float(version))}
        buffer = sender.buffer(SIZE, version=version)
        manifest = write_payload(iter(tensors.items()), buffer, version=version)
        with closing(receiver.buckets(sender.announce(manifest, seats=[]))) as parts:
            (part,) = parts
            assert torch.equal(dict(part)["x"], tensors["x"])
        assert receives.calls[-1] == "settle"  # before it answers
        sender.release(version - 1)
    assert len(sends.registered) == len(receives.registered) == 2
    part = None
    sender.buffer(2 * SIZE, version=6)  # of another model: the spare pages are of no use
    assert len(sends.registered) == 2
    sender.close()
    receiver.close()
    assert sends.registered == receives.registered == []


def test_a_bucket_is_given_back_when_the_device_has_read_it(tmp_path, monkeypatch):
    """The worker beside the sender reads its ring."""
    device = Device()
    streamed = Streamed(tmp_path)
    beside = streamed.receivers[2]
    beside._pages = HostPages(device)
    take = RingReader.take

    def recorded(ring, number):
        if ring._pages is beside._pages:
            device.calls.append(f"take {number}")
        take(ring, number)

    monkeypatch.setattr(RingReader, "take", recorded)

    def load(rank: int, part: dict[str, torch.Tensor]) -> None:
        if rank == 3:
            device.calls.append("load")

    try:
        for version in (1, 2):
            sent, *_ = streamed.push(version, load=load)
            sent.result()
    finally:
        streamed.close()
    bucket = [["load", "settle", f"take {number}"] for number in range(3)]
    push = [*(call for calls in bucket for call in calls), "settle"]
    assert device.calls[: 2 * len(push) + 1] == ["register", *push, *push]  # one file for both
    assert device.registered == []


def test_a_load_that_fails_waits_for_the_device_too(tmp_path):
    device = Device()
    sender = SharedMemorySender(run_id=tmp_path.name)
    receiver = SharedMemoryReceiver(HostPages(device))
    manifest = write_payload(
        iter({"x": torch.ones(3)}.items()), sender.buffer(SIZE, version=1), version=1
    )
    locator: Locator = sender.announce(manifest, seats=[])
    with pytest.raises(KeyError), closing(receiver.buckets(locator)) as parts:
        for _ in parts:
            raise KeyError("no such layer")
    assert device.calls == ["register", "settle"]
    sender.close()
    receiver.close()


def test_a_gpu_without_its_runtime_costs_pace_and_nothing_else(tmp_path, monkeypatch, caplog):
    def missing() -> None:
        raise RuntimeError("libcudart is not loaded")

    monkeypatch.setattr("rlpost.weights.transports.host_pages.CudaRuntime", missing)
    with caplog.at_level(logging.WARNING):
        host_pages(torch.device("cuda")).of(tmp_path / "a", SIZE)[3] = 1
    assert "libcudart is not loaded" in caplog.text
