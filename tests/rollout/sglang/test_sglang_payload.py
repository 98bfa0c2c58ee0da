"""Where a server's versions lie, and who removes them."""

import pytest
import torch

from rlpost.errors import WeightPushError
from rlpost.rollout.sglang import payload
from rlpost.rollout.sglang.payload import Payloads, remove_unused
from rlpost.weights.manifest import payload_size_bytes, write_payload
from rlpost.weights.transports.filesystem import FilesystemSender
from rlpost.weights.transports.protocol import Locator

WEIGHT = torch.arange(6.0).view(2, 3)


@pytest.fixture
def memory(tmp_path, monkeypatch):
    memory = tmp_path / "shm"
    memory.mkdir()
    monkeypatch.setattr(payload, "shared_memory_directory", lambda: memory)
    return memory


def sent(place, version):
    sender = FilesystemSender(root=place / "sent")
    buffer = sender.buffer(
        payload_size_bytes([("w", WEIGHT.dtype, tuple(WEIGHT.shape))]), version=version
    )
    return sender.announce(write_payload(iter([("w", WEIGHT)]), buffer, version=version), seats=[])


def test_one_version_stays_until_the_next_is_committed(memory, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    payloads = Payloads(base)
    for version in (1, 2):
        before = payloads.committed
        payloads.receive(sent(tmp_path, version))
        assert payloads.committed == before and before.exists()
        payloads.commit()
        assert payloads.committed.name == f"v{version}"
    payloads.receive(sent(tmp_path, 3))
    payloads.forget()
    (root,) = memory.iterdir()
    assert [each.name for each in root.iterdir()] == ["v2"] and base.exists()
    with pytest.raises(WeightPushError, match="no payload has arrived"):
        payloads.commit()
    payloads.close()
    assert not [*memory.iterdir()]


def test_what_a_killed_server_left_is_removed_and_nothing_in_use(memory, tmp_path):
    (memory / "rlpost-sglang-left").mkdir()
    payloads = Payloads(tmp_path)
    payloads.receive(sent(tmp_path, 1))
    remove_unused()
    assert [*memory.iterdir()] == [payloads.received.parent]
    payloads.close()


def test_a_transport_that_does_not_reach_it_is_named(memory, tmp_path):
    with pytest.raises(WeightPushError, match="cannot receive over gloo"):
        Payloads(tmp_path).receive(Locator(transport="gloo", manifest={"entries": []}))
