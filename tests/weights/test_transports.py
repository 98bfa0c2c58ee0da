"""One contract for every transport."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from fakes import seat
from listening import listeners

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import PushManifest, read_payload, write_payload
from rlpost.weights.transports import gloo
from rlpost.weights.transports.choice import AutoSender, Transport, make_sender, transport_between
from rlpost.weights.transports.filesystem import FilesystemReceiver
from rlpost.weights.transports.gloo import GlooReceiver
from rlpost.weights.transports.protocol import Locator
from rlpost.weights.transports.shared_memory import SharedMemoryReceiver, shared_memory_id

RECEIVERS = {
    Transport.shared_memory: SharedMemoryReceiver,
    Transport.filesystem: FilesystemReceiver,
    Transport.gloo: partial(GlooReceiver, memory="here"),
}
WEIGHTS = {"w": torch.randn(300, 70), "b": torch.randn(33).to(torch.bfloat16)}


@pytest.fixture(params=list(RECEIVERS), ids=lambda t: t.value)
def transport(request):
    return request.param


@pytest.fixture
def sender(transport, tmp_path):
    sender = make_sender(
        transport,
        run_id=tmp_path.name,
        root=tmp_path / "weights",
        host="127.0.0.1",
        timeout_s=60.0,
    )
    yield sender
    sender.close()


def announce(sender, version: int, tensors=WEIGHTS) -> tuple[PushManifest, Locator]:
    """The manifest of ``tensors``, which wait to be sent, and where rank 1 finds them."""
    buffer = sender.buffer(200_000, version=version)
    manifest = write_payload(iter(tensors.items()), buffer, version=version)
    locator = sender.announce(manifest, seats=[seat()])
    wire = Locator(**{**vars(locator), "where": {**locator.where, "rank": 1}})
    return PushManifest.from_dict(locator.manifest), wire


def push(
    sender, receiver, version: int, tensors=WEIGHTS
) -> tuple[dict[str, torch.Tensor], PushManifest, torch.Tensor]:
    manifest, wire = announce(sender, version, tensors)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(sender.send)
        received = receiver.fetch(wire)
        sending.result()
    return dict(read_payload(manifest, received)), manifest, received


def test_nothing_listens_beyond_the_senders_host(sender, transport, monkeypatch):
    before, during = listeners(), set()
    broadcast = gloo._broadcast

    def watched(*args):
        during.update(listeners() - before)  # both sides have connected
        broadcast(*args)

    monkeypatch.setattr(gloo, "_broadcast", watched)
    push(sender, RECEIVERS[transport](), 1)
    over_tcp = transport is Transport.gloo
    assert {host for host, _ in during} == ({"127.0.0.1"} if over_tcp else set())
    assert len(during) >= (2 if over_tcp else 0)  # the store, and gloo's own


def test_bytes_arrive_and_last_until_others_may_take_their_place(sender, transport):
    receiver = RECEIVERS[transport]()
    first, *_ = push(sender, receiver, 1)
    second, *_ = push(sender, receiver, 2, {n: t + 1 for n, t in WEIGHTS.items()})
    sender.release(1)
    sender.release(1)  # harmless
    third, *_ = push(sender, receiver, 3, {n: t + 2 for n, t in WEIGHTS.items()})
    # On a host without the sender a payload takes the place of the one before.
    unreleased = all(torch.equal(second[n], WEIGHTS[n] + 1) for n in WEIGHTS)
    assert unreleased is (transport is not Transport.gloo)
    assert all(torch.equal(third[n], WEIGHTS[n] + 2) for n in WEIGHTS)
    kept = all(torch.equal(first[n], WEIGHTS[n]) for n in WEIGHTS)
    assert kept is (transport is Transport.filesystem)  # the others reuse their pages


def test_a_released_payload_is_whole_or_does_not_verify(sender, transport):
    receiver = RECEIVERS[transport]()
    _, manifest, received = push(sender, receiver, 1)
    sender.release(1)
    push(sender, receiver, 2, {n: t + 1 for n, t in WEIGHTS.items()})
    if transport is not Transport.filesystem:
        with pytest.raises(WeightPushError, match="checksum of w"):
            read_payload(manifest, received)
    else:
        found = dict(read_payload(manifest, received))
        assert all(torch.equal(found[n], WEIGHTS[n]) for n in WEIGHTS)


def test_a_lost_payload_is_an_error_not_a_hang(sender, transport):
    buffer = sender.buffer(200_000, version=1)
    locator = sender.announce(
        write_payload(iter(WEIGHTS.items()), buffer, version=1), seats=[seat()]
    )
    sender.release(1)
    where = {**locator.where, "rank": 1, "timeout_s": 1.0}
    lost = Locator(transport=locator.transport, manifest=locator.manifest, where=where)
    with pytest.raises(WeightPushError):
        RECEIVERS[transport]().fetch(lost)


def test_auto_is_chosen_from_where_everybody_sits():
    assert transport_between("a", ["a", "a"]) is Transport.shared_memory
    assert transport_between("a", ["a", "b"]) is Transport.gloo
    assert transport_between("a", ["b"]) is Transport.gloo  # together, but elsewhere


def test_auto_follows_generators_that_join_and_leave(tmp_path):
    sender = AutoSender(run_id=tmp_path.name, host="127.0.0.1", timeout_s=60.0)
    here, away = seat(shared_memory_id()), seat("another host")

    def announced(version: int, *seats) -> Locator:
        tensors = {n: t + version for n, t in WEIGHTS.items()}
        buffer = sender.buffer(200_000, version=version)
        return sender.announce(
            write_payload(iter(tensors.items()), buffer, version=version), seats=seats
        )

    def fetched(locator: Locator) -> dict[str, torch.Tensor]:
        over = Transport(locator.transport)
        receiver = GlooReceiver(memory=away.memory) if over is Transport.gloo else RECEIVERS[over]()
        where = Locator(**{**vars(locator), "where": {**locator.where, "rank": 1}})
        with ThreadPoolExecutor(1) as pool:
            sending = None if locator.repeatable else pool.submit(sender.send)
            received = receiver.fetch(where)
            if sending is not None:
                sending.result()
        return dict(read_payload(PushManifest.from_dict(locator.manifest), received))

    try:
        first = announced(1, here)
        assert first.transport == "shared_memory"
        assert first.reaches(here) and not first.reaches(away)
        # A generator that joins on another host gets what those here have already.
        again = sender.announce(PushManifest.from_dict(first.manifest), seats=[away])
        assert again.transport == "gloo" and not again.reaches(here)
        assert torch.equal(fetched(again)["w"], WEIGHTS["w"] + 1)
        assert torch.equal(fetched(first)["w"], WEIGHTS["w"] + 1)
        second = announced(2, here, away)
        assert second.transport == "gloo"
        sender.release(1)
        third = announced(3, here)
        assert third.transport == "shared_memory"
        assert torch.equal(fetched(third)["w"], WEIGHTS["w"] + 3)
    finally:
        sender.close()


def test_shared_memory_files_are_removed(tmp_path):
    run_id = f"clean-{tmp_path.name}"
    sender = make_sender(
        Transport.shared_memory, run_id=run_id, root=tmp_path, host="", timeout_s=1.0
    )

    def stage(version: int, size_bytes: int = 1000) -> Path:
        payload = write_payload(
            iter({"x": torch.ones(3)}.items()),
            sender.buffer(size_bytes, version=version),
            version=version,
        )
        return Path(sender.announce(payload, seats=[seat()]).where["path"])

    def files() -> set[str]:
        return {p.name.removeprefix(f"rlpost-{run_id}-v") for p in path.parent.glob(f"*{run_id}*")}

    path = stage(1)
    stage(2)
    assert files() == {"1", "2"}
    sender.release(1)
    assert files() == {"spare", "2"}
    stage(3)
    assert files() == {"2", "3"}
    sender.release(2)
    sender.release(3)  # one spare is enough
    assert files() == {"spare"}
    stage(4, size_bytes=2000)  # of another size
    assert files() == {"4"}
    sender.close()
    assert files() == set()
