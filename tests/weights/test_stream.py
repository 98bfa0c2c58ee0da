"""Two hosts of two workers each, and one beside the sender: who gets which bytes, and who fails."""

import time

import pytest
import torch
from streams import BUCKET_BYTES, HOSTS, Streamed, weights

from rlpost.errors import PushEnded, WeightPushError
from rlpost.weights import buckets
from rlpost.weights.manifest import describe
from rlpost.weights.transports import stream_receiver, stream_sender
from rlpost.weights.transports.gloo_wire import GlooGroup, GlooWire


@pytest.fixture
def streamed(tmp_path):
    streamed = Streamed(tmp_path)
    yield streamed
    streamed.close()


def all_equal(found: dict[str, torch.Tensor], version: int) -> bool:
    wanted = weights(version)
    return list(found) == list(wanted) and all(
        torch.equal(found[name], wanted[name]) for name in wanted
    )


def received_bytes(version: int) -> int:
    shapes = [(name, each.dtype, tuple(each.shape)) for name, each in weights(version).items()]
    planned = buckets.divide(describe(shapes, version=version), most_bytes=BUCKET_BYTES)
    return sum(bucket.size_bytes for bucket in planned)


def test_each_host_gets_every_byte_once_into_the_same_two_buckets(streamed, monkeypatch):
    formed = []
    whole = GlooWire.group
    monkeypatch.setattr(
        GlooWire, "group", lambda self, *a, **o: formed.append(o["rank"]) or whole(self, *a, **o)
    )
    files: dict[str | None, list[tuple[int, int]]] = {}
    for version in (1, 2, 3):
        sent, *read = streamed.push(version)
        sent.result()
        assert all(all_equal(each.result(), version) for each in read) and len(read) == 5
        assert [each.taken_bytes for each in streamed.receivers] == [
            version * received_bytes(1) * first for first in (1, 0, 0, 1, 0)
        ]
        for host in ("left", None, "right"):
            stats = [path.stat() for path in streamed.directory(host).iterdir()]
            found = [(each.st_ino, each.st_size) for each in stats]
            assert len(found) == 1  # one file, whatever was received
            assert files.setdefault(host, found) == found  # the same pages
    assert sorted(formed) == [0, 1, 2]  # the group was kept


def test_every_worker_may_join_the_group_as_on_gpus(tmp_path):
    class AllJoin(GlooWire):
        every_worker_joins = True

    streamed = Streamed(tmp_path, wire=AllJoin)
    try:
        sent, *read = streamed.push(1)
        sent.result()
        assert all(all_equal(each.result(), 1) for each in read)
        assert [each.taken_bytes for each in streamed.receivers] == [received_bytes(1)] * 5
        assert not any(list(streamed.directory(host).iterdir()) for host in HOSTS)
    finally:
        streamed.close()


def test_a_damaged_bucket_is_handed_to_nobody(streamed, monkeypatch):
    """Of a payload of four buckets the third is damaged on its way to one host."""
    taken: dict[int, list[str]] = {}
    wait, waits = GlooGroup.wait, []

    def damaged(group, work, **options):
        wait(group, work, **options)
        waits.append(work)
        if work == 3 and group is streamed.receivers[3]._group:
            streamed.receivers[3]._ring._file.slots[0][5] ^= 1

    monkeypatch.setattr(GlooGroup, "wait", damaged)
    sent, *read = streamed.push(1, load=lambda rank, part: taken.setdefault(rank, []).extend(part))
    for rank in (4, 5):
        with pytest.raises(WeightPushError, match="from c on: its number or its checksum"):
            read[rank - 1].result()
        assert taken[rank] == ["a", "b", "large"][: len(taken[rank])]
    monkeypatch.undo()
    sent, *read = streamed.push(2)  # nothing of it is left
    sent.result()
    assert all(all_equal(each.result(), 2) for each in read)


def test_without_the_check_the_damage_is_handed_on(streamed, monkeypatch):
    """The negative control."""
    seal = buckets.seal

    def seal_then_damage(bucket, slot, **options):
        seal(bucket, slot, **options)
        slot[5] ^= 1

    monkeypatch.setattr(stream_sender, "seal", seal_then_damage)
    for checked in (True, False):
        if not checked:
            monkeypatch.setattr(
                stream_receiver,
                "verify",
                lambda bucket, slot, **_: [
                    (e.name, buckets.view_of(e, slot[e.offset - bucket.start :][: e.size_bytes]))
                    for e in bucket.entries
                ],
            )
        _, *read = streamed.push(1)
        assert all((each.exception() is not None) is checked for each in read)


def test_who_did_not_come_is_named_to_all(tmp_path):
    streamed = Streamed(tmp_path, timeout_s=2.0)
    try:
        for waiting in streamed.push(1, absent=(4,)):
            with pytest.raises(WeightPushError, match=r"right did not come in 2 s"):
                waiting.result()
        streamed.sender._timeout_s = 60.0
        _, *read = streamed.push(2)  # nothing of it is left
        assert all(all_equal(each.result(), 2) for each in read)
    finally:
        streamed.close()


def test_weights_that_are_not_those_announced_are_loaded_by_nobody(streamed):
    taken = []
    other = {**weights(1), "large": torch.zeros(3)}
    sent, *read = streamed.push(1, sent=other, load=lambda rank, part: taken.extend(part))
    with pytest.raises(WeightPushError, match=r"large \(float32 \(200,\)\) was announced"):
        sent.result()
    assert all(each.exception() is not None for each in read) and "large" not in taken
    sent, *read = streamed.push(2)
    assert all(all_equal(each.result(), 2) for each in read)


@pytest.mark.parametrize("rank", [1, 2, 3], ids=["receives", "reads", "beside the sender"])
def test_a_worker_that_fails_in_the_middle_ends_the_push_at_once(streamed, rank):
    def refuse(each, part):
        if each == rank and "large" in part:
            raise WeightPushError("no such layer")

    started_s = time.monotonic()
    sent, *read = streamed.push(1, load=refuse)
    assert time.monotonic() - started_s < 20  # of a deadline of 60 s
    with pytest.raises(WeightPushError, match="no such layer"):
        read[rank - 1].result()
    assert rank != 3 or sent.exception() is not None  # bytes for other hosts may have left
    sent, *read = streamed.push(2)
    sent.result()
    assert all(all_equal(each.result(), 2) for each in read)


class Broken(dict):
    """Weights that cannot be gathered, because of a bug."""

    def items(self):
        yield from list(super().items())[:3]
        raise KeyError("no such layer")


def test_a_bug_in_the_trainer_ends_the_push_at_once_for_all(streamed):
    started_s = time.monotonic()
    sent, *read = streamed.push(1, sent=Broken(weights(1)))
    assert time.monotonic() - started_s < 20  # of a deadline of 60 s
    with pytest.raises(KeyError):
        sent.result()
    for each in read:
        with pytest.raises(WeightPushError, match=r"the sender failed|broadcast failed"):
            each.result()
    sent, *read = streamed.push(2)
    sent.result()
    assert all(all_equal(each.result(), 2) for each in read)


def test_what_a_failed_push_may_still_write_to_is_never_used_again(streamed, monkeypatch):
    """A broadcast that is under way ends at its own deadline, long after the next push began."""
    slots: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    broadcast, push = GlooGroup.broadcast, 1

    def recorded(group, slot):
        if group in [each._group for each in streamed.receivers]:
            slots[push].append(slot)
        return broadcast(group, slot)

    def refuse(rank, part):
        if rank in (1, 4) and "large" in part:
            raise WeightPushError("no such layer")

    monkeypatch.setattr(GlooGroup, "broadcast", recorded)
    streamed.push(push, load=refuse)
    push = 2
    sent, *_ = streamed.push(push)
    sent.result()
    before, after = ({each.data_ptr() for each in slots[number]} for number in (1, 2))
    assert before and after and not before & after


def test_another_process_in_the_place_of_one_gets_a_group_of_its_own(streamed, monkeypatch):
    sent, *_ = streamed.push(1)
    sent.result()
    first, dropped, drop = streamed.sender._group, [], GlooGroup.drop
    monkeypatch.setattr(GlooGroup, "drop", lambda group: dropped.append(group) or drop(group))
    streamed.receivers[0].close()
    streamed.receivers[0] = streamed.receiver("left")
    sent, *read = streamed.push(2)
    sent.result()
    assert all(all_equal(each.result(), 2) for each in read)
    assert first in dropped  # no group is left to whoever collects garbage


def test_a_host_without_room_is_named_at_once(streamed, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    sent, *_ = streamed.push(1)
    sent.result()
    for receiver in streamed.receivers:
        if receiver._ring is not None:
            receiver._ring.close()
    monkeypatch.setattr("os.posix_fallocate", full)
    started_s = time.monotonic()
    sent, left, *_ = streamed.push(2, absent=(2, 5))
    with pytest.raises(WeightPushError, match="no room for two buckets"):
        left.result()
    with pytest.raises(WeightPushError, match="no room for two buckets"):
        sent.result()
    assert time.monotonic() - started_s < 20


class Clock:
    """Seconds that pass when somebody is slow."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def many(version: int) -> dict[str, torch.Tensor]:
    """Twelve tensors that have a bucket each."""
    return {f"layer{n}": torch.full((BUCKET_BYTES // 4,), n + version * 1.0) for n in range(12)}


@pytest.mark.parametrize("slow", [1, 3], ids=["a host", "beside the sender"])
def test_a_push_ends_though_nobody_exceeds_a_deadline_of_his_own(tmp_path, slow):
    """Each bucket takes a worker 25 of 60 s: a push that waits for each of them takes 300."""
    clock = Clock()
    streamed = Streamed(tmp_path, weights=many, clock=clock)

    def load(rank, part):
        clock.now_s += 25 * (rank == slow)

    try:
        sent, *read = streamed.push(1, load=load)
        with pytest.raises(WeightPushError, match=r"did not end in 60 s, and waited for"):
            sent.result()
        for each in read:
            with pytest.raises(PushEnded, match="did not end in 60 s"):
                each.result()
        assert clock.now_s < 300
        sent, *read = streamed.push(2)
        sent.result()
        assert all(torch.equal(each.result()["layer3"], many(2)["layer3"]) for each in read)
    finally:
        streamed.close()


class Slow(dict):
    """Weights that take 25 s each, by a clock that the trainer does not see."""

    def __init__(self, weights, clock) -> None:
        super().__init__(weights)
        self.clock = clock

    def items(self):
        for name, tensor in super().items():
            self.clock.now_s += 25
            yield name, tensor


def test_receivers_end_a_push_whose_sender_does_not(tmp_path):
    clock = Clock()
    streamed = Streamed(tmp_path, weights=many, receivers_clock=clock)
    try:
        sent, *read = streamed.push(1, sent=Slow(many(1), clock))
        with pytest.raises(WeightPushError):
            sent.result()
        said = [str(each.exception()) for each in read]
        assert "None" not in said and any("did not end in 120 s" in each for each in said)
        assert clock.now_s < 300
    finally:
        streamed.close()
