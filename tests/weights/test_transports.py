"""One contract for every transport."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import torch
from fakes import seat
from listening import listeners

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import PushManifest, describe, read_payload, write_payload
from rlpost.weights.transports.choice import (
    WIRES,
    Senders,
    Transport,
    make_senders,
    transport_between,
)
from rlpost.weights.transports.filesystem import FilesystemReceiver
from rlpost.weights.transports.gloo_wire import GlooGroup, GlooWire
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.transports.shared_memory import SharedMemoryReceiver, shared_memory_id
from rlpost.weights.transports.stream_receiver import StreamReceiver

RECEIVERS = {
    Transport.shared_memory: SharedMemoryReceiver,
    Transport.filesystem: FilesystemReceiver,
    Transport.gloo: lambda: StreamReceiver(GlooWire(), memory="here"),
}
WEIGHTS = {"w": torch.randn(300, 70), "b": torch.randn(33).to(torch.bfloat16)}
MORE = {name: tensor + 1 for name, tensor in WEIGHTS.items()}


@pytest.fixture(params=list(RECEIVERS), ids=lambda t: t.value)
def transport(request):
    return request.param


@pytest.fixture
def senders(transport, tmp_path):
    senders = make_senders(
        transport,
        run_id=tmp_path.name,
        root=tmp_path / "weights",
        host="127.0.0.1",
        timeout_s=60.0,
    )
    yield senders
    senders.close()


def announced(
    senders: Senders, version: int, tensors=WEIGHTS, *, seats: tuple[Seat, ...] = (seat(),)
) -> Locator:
    """Where rank 1 finds ``tensors``, which lie somewhere or wait to be sent."""
    if senders.stages(seats):
        buffer = senders.staged.buffer(200_000, version=version)
        manifest = write_payload(iter(tensors.items()), buffer, version=version)
        locator = senders.staged.announce(manifest, seats=seats)
    else:
        shapes = [(name, each.dtype, tuple(each.shape)) for name, each in tensors.items()]
        locator = senders.stream.announce(describe(shapes, version=version), seats=seats)
    return Locator(**{**vars(locator), "where": {**locator.where, "rank": 1}})


def fetched(receiver, locator: Locator) -> dict[str, torch.Tensor]:
    with closing(receiver.buckets(locator)) as buckets:
        return {name: tensor.clone() for part in buckets for name, tensor in part}


def push(senders: Senders, receiver, version: int, tensors=WEIGHTS) -> dict[str, torch.Tensor]:
    locator = announced(senders, version, tensors)
    with ThreadPoolExecutor(1) as pool:
        if locator.repeatable:
            return fetched(receiver, locator)
        sending = pool.submit(senders.stream.send, iter(tensors.items()))
        received = fetched(receiver, locator)
        sending.result()
        return received


def same(found: dict[str, torch.Tensor], wanted=WEIGHTS) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_nothing_listens_beyond_the_senders_host(senders, transport, monkeypatch):
    before, during = listeners(), set()
    broadcast = GlooGroup.broadcast

    def watched(*args):
        during.update(listeners() - before)  # both sides have connected
        return broadcast(*args)

    monkeypatch.setattr(GlooGroup, "broadcast", watched)
    push(senders, RECEIVERS[transport](), 1)
    over_tcp = transport is Transport.gloo
    assert {host for host, _ in during} == ({"127.0.0.1"} if over_tcp else set())
    assert len(during) >= (2 if over_tcp else 0)  # the store, and gloo's own


def test_every_version_arrives(senders, transport):
    receiver = RECEIVERS[transport]()
    assert same(push(senders, receiver, 1))
    assert same(push(senders, receiver, 2, MORE), MORE)
    senders.release(1)
    senders.release(1)  # harmless
    assert same(push(senders, receiver, 3))


def test_a_staged_payload_can_be_fetched_until_it_is_released(senders, transport):
    receiver = RECEIVERS[transport]()
    if transport not in (Transport.shared_memory, Transport.filesystem):
        assert not announced(senders, 1).repeatable
        return
    first = announced(senders, 1)
    announced(senders, 2, MORE)
    assert same(fetched(receiver, first)) and same(fetched(receiver, first))
    senders.release(1)
    with pytest.raises(WeightPushError):
        fetched(receiver, first)


def test_pages_that_another_payload_took_do_not_verify(tmp_path):
    senders = make_senders(
        Transport.shared_memory, run_id=tmp_path.name, root=tmp_path, host="", timeout_s=1.0
    )
    try:
        first = PushManifest.from_dict(announced(senders, 1).manifest)
        pages = senders.staged._buffers[1]
        read_payload(first, pages)
        senders.release(1)
        announced(senders, 2, MORE)
        with pytest.raises(WeightPushError, match="checksum of w"):
            read_payload(first, pages)
    finally:
        senders.close()


def test_a_lost_payload_is_an_error_not_a_hang(senders, transport):
    locator = announced(senders, 1)
    senders.release(1)
    where = {**locator.where, "timeout_s": 0.5} if transport in WIRES else locator.where
    lost = Locator(transport=locator.transport, manifest=locator.manifest, where=where)
    with pytest.raises(WeightPushError):
        fetched(RECEIVERS[transport](), lost)


def test_auto_is_chosen_from_where_everybody_sits():
    assert transport_between("a", ["a", "a"]) is Transport.shared_memory
    assert transport_between("a", ["a", "b"]) is Transport.gloo
    assert transport_between("a", ["b"]) is Transport.gloo  # together, but elsewhere


def test_auto_follows_generators_that_join_and_leave(tmp_path):
    here, away = seat(shared_memory_id()), seat("another host")
    senders = make_senders(
        Transport.auto, run_id=tmp_path.name, root=tmp_path, host="127.0.0.1", timeout_s=60.0
    )
    try:
        assert senders.stages([here]) and not senders.stages([here, away])
        first = announced(senders, 1, seats=(here,))
        assert first.transport == "shared_memory"
        assert first.reaches(here) and not first.reaches(away)
        second = announced(senders, 2, seats=(here, away))
        assert second.transport == "gloo" and not second.reaches(here)
        senders.release(1)
        third = announced(senders, 3, MORE, seats=(here,))
        assert third.transport == "shared_memory"
        assert same(fetched(SharedMemoryReceiver(), third), MORE)
    finally:
        senders.close()


def test_shared_memory_files_are_removed(tmp_path):
    run_id = f"clean-{tmp_path.name}"
    sender = make_senders(
        Transport.shared_memory, run_id=run_id, root=tmp_path, host="", timeout_s=1.0
    ).staged

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
