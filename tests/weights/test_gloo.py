"""Two hosts of two workers each, and one beside the sender: who gets which bytes, over what."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from fakes import seat

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import PushManifest, read_payload, write_payload
from rlpost.weights.transports.choice import Transport, make_sender
from rlpost.weights.transports.gloo import GlooReceiver
from rlpost.weights.transports.host_file import HostFile, remove_unused
from rlpost.weights.transports.protocol import Locator
from rlpost.weights.transports.shared_memory import shared_memory_id

SIZE = 400
SEATS = [seat("left", num_workers=2), seat(shared_memory_id()), seat("right", num_workers=2)]
HOSTS = ["left", "left", None, "right", "right"]  # of ranks 1 to 5; None: the sender's


@dataclass
class Fleet:
    """A sender and a receiver per worker; each host has its own directory."""

    root: Path
    timeout_s: float = 60.0
    receivers: list[GlooReceiver] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sender = make_sender(
            Transport.gloo,
            run_id=self.root.name,
            root=self.root,
            host="127.0.0.1",
            timeout_s=self.timeout_s,
        )
        for host in HOSTS:
            self.directory(host).mkdir(exist_ok=True)
            self.receivers.append(GlooReceiver(memory=host, directory=self.directory(host)))

    def directory(self, host: str | None) -> Path:
        return self.root / (host or "own")

    def files(self, host: str | None) -> dict[int, int]:
        """Inode -> size of what lies in a host's shared memory."""
        found = [path.stat() for path in self.directory(host).iterdir()]
        return {each.st_ino: each.st_size for each in found}

    def push(self, version: int, *, absent: tuple[int, ...] = ()) -> list[Future]:
        tensors = {"w": torch.full((SIZE // 4,), float(version))}
        manifest = write_payload(
            iter(tensors.items()), self.sender.buffer(SIZE, version=version), version=version
        )
        locator = self.sender.announce(manifest, seats=SEATS)
        with ThreadPoolExecutor(6) as pool:
            futures = [pool.submit(self.sender.send)]
            for rank, receiver in enumerate(self.receivers, start=1):
                if rank not in absent:
                    where = {**locator.where, "rank": rank}
                    wire = Locator(**{**vars(locator), "where": where})
                    futures.append(pool.submit(self.read, receiver, wire))
        return futures

    @staticmethod
    def read(receiver: GlooReceiver, locator: Locator) -> torch.Tensor:
        manifest = PushManifest.from_dict(locator.manifest)
        return dict(read_payload(manifest, receiver.fetch(locator)))["w"]

    def close(self) -> None:
        self.sender.close()
        for receiver in self.receivers:
            receiver.close()


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def test_each_host_gets_a_payload_once_and_into_the_pages_of_the_last(fleet):
    hosts: dict[str, dict[int, int]] = {}
    for version in (1, 2, 3):
        sent, *read = fleet.push(version)
        sent.result()
        assert [each.result()[0].item() for each in read] == [version] * 5
        assert [each.taken_bytes for each in fleet.receivers] == [
            version * SIZE * first for first in (1, 0, 0, 1, 0)
        ]
        for host in ("left", "right"):
            files = fleet.files(host)
            assert list(files.values()) == [SIZE]  # one buffer, whatever was received
            assert hosts.setdefault(host, files) == files  # the same pages
    assert fleet.files(None) == {}


def test_who_did_not_come_is_named_to_all(tmp_path):
    fleet = Fleet(tmp_path, timeout_s=1.5)
    try:
        sent, left, left_too, beside, right_too = fleet.push(1, absent=(4,))
        assert beside.result()[0] == 1  # it needs nobody
        for waiting in (sent, left, left_too, right_too):
            with pytest.raises(WeightPushError, match=r"right did not come in 1\.5 s"):
                waiting.result()
        sent, *read = fleet.push(2)  # nothing of it is left
        assert [each.result()[0].item() for each in read] == [2] * 5
    finally:
        fleet.close()


def test_a_host_without_room_is_named_at_once(fleet, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    for waiting in fleet.push(1):
        if waiting.exception() is not None:
            assert "has no room for a payload" in str(waiting.exception())
    assert fleet.receivers[0].taken_bytes == 0


def test_a_file_is_removed_once_nobody_has_it_open(tmp_path):
    one, two = (HostFile(run_id="r", directory=tmp_path) for _ in range(2))
    one.to_write(64)[:] = 7
    assert two.to_read(64)[63] == 7
    one.close()
    remove_unused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rlpost-r-received"]
    mapped = two.to_read(64)
    two.close()
    remove_unused(tmp_path)
    assert list(tmp_path.iterdir()) == [] and mapped[0] == 7
    with pytest.raises(WeightPushError, match="cannot be read"):
        two.to_read(64)
    assert one.to_write(128).numel() == 128 and two.to_read(128).numel() == 128
    one.to_write(64)  # of another size: a new file
    assert two.to_read(64).numel() == 64
