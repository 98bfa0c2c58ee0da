"""The buffer: every admitted group is in exactly one place."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.control.buffer import GroupBuffer, Ready, Running


def places(buffer):
    return tuple(
        [entry.uid for entry in place] for place in (buffer.running, buffer.ready, buffer.training)
    )


def buffer_with_ready(*uids, kind=GroupBuffer):
    buffer = kind(capacity=10)
    for uid in uids:
        buffer.start(uid, version=1)
        buffer.finish(uid, f"group {uid}", version=1)
    return buffer


# -- by hand ------------------------------------------------------------------------------------


def test_a_group_goes_from_running_over_ready_into_training_and_out():
    buffer = GroupBuffer(capacity=2)
    buffer.start("0:0", version=1)
    buffer.start("0:1", version=1)
    assert buffer.running[1] == Running(uid="0:1", order=1, version=1)
    buffer.finish("0:1", "a group", version=1)
    assert buffer.ready == (Ready(uid="0:1", order=1, version=1, group="a group"),)
    assert places(buffer) == (["0:0"], ["0:1"], [])
    assert buffer.reserve(["0:1"]) == ["a group"]
    assert places(buffer) == (["0:0"], [], ["0:1"])
    assert (len(buffer), "0:0" in buffer, "0:1" in buffer) == (2, True, True)
    buffer.commit()
    assert places(buffer) == (["0:0"], [], [])
    assert (len(buffer), "0:1" in buffer) == (1, False)


def test_a_restart_keeps_the_place_in_the_order_and_takes_the_new_version():
    buffer = GroupBuffer(capacity=3)
    buffer.start("0:0", version=1)
    buffer.start("0:1", version=1)
    buffer.restart("0:0", version=4)
    assert [(e.uid, e.order, e.version) for e in buffer.running] == [("0:0", 0, 4), ("0:1", 1, 1)]
    buffer.finish("0:0", "a group", version=4)
    buffer.start("0:2", version=4)
    assert [(e.order, e.version) for e in (*buffer.ready, *buffer.running)] == [
        (0, 4),
        (1, 1),
        (2, 4),
    ]


def test_groups_are_handed_out_in_the_order_asked_for():
    buffer = buffer_with_ready("0:0", "0:1", "0:2")
    assert buffer.reserve(["0:2", "0:0"]) == ["group 0:2", "group 0:0"]


def test_a_discarded_group_is_gone_and_its_uid_may_come_again():
    buffer = buffer_with_ready("0:0")
    buffer.start("0:1", version=1)
    buffer.discard("0:0")
    buffer.discard("0:1")
    assert len(buffer) == 0
    buffer.start("0:1", version=2)
    assert buffer.running[0].order == 2


def test_a_checkpoint_replaces_everything_and_the_order_goes_on():
    saved = buffer_with_ready("0:0", "0:1", "0:2")
    saved.discard("0:1")
    buffer = buffer_with_ready("7:0", "7:1")
    buffer.reserve(["7:0"])
    buffer.start("7:2", version=1)
    buffer.restore(saved.ready)
    assert places(buffer) == ([], ["0:0", "0:2"], [])
    buffer.start("0:3", version=5)
    assert buffer.running[0].order == 3
    buffer.restore([])
    assert (len(buffer), buffer.next_order) == (0, 0)


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda buffer: buffer.start("run", version=1), AssertionError),
        (lambda buffer: buffer.start("ready", version=1), AssertionError),
        (lambda buffer: buffer.start("train", version=1), AssertionError),
        (lambda buffer: buffer.start("one too many", version=1), AssertionError),
        (lambda buffer: buffer.restart("ready", version=1), KeyError),
        (lambda buffer: buffer.finish("ready", "again", version=1), KeyError),
        (lambda buffer: buffer.finish("nobody", "a group", version=1), KeyError),
        (lambda buffer: buffer.discard("train"), KeyError),
        (lambda buffer: buffer.discard("nobody"), KeyError),
        (lambda buffer: buffer.reserve(["ready"]), AssertionError),
    ],
)
def test_moves_that_make_no_sense_fail_and_change_nothing(act, error):
    buffer = GroupBuffer(capacity=3)
    for uid in ("run", "ready", "train"):
        buffer.start(uid, version=1)
    buffer.finish("train", "a group", version=1)
    buffer.reserve(["train"])
    buffer.finish("ready", "a group", version=1)
    before = places(buffer)
    with pytest.raises(error):
        act(buffer)
    assert places(buffer) == before == (["run"], ["ready"], ["train"])


# -- any sequence of moves -----------------------------------------------------------------------

MOVES = ("start", "restart", "finish", "discard", "reserve", "commit")
CAPACITY = 6


def simulate(seed, kind=GroupBuffer):
    """Compare with a model that knows the place, order and version of every uid."""
    rng = random.Random(seed)
    buffer, model, num_started = kind(capacity=CAPACITY), {}, 0

    def pick(*places):
        return rng.choice([uid for uid, (place, *_) in model.items() if place in places] or [None])

    for version in range(1, 101):
        move, uid = rng.choice(MOVES), None
        if move == "start" and len(model) < CAPACITY:
            buffer.start(f"0:{num_started}", version=version)
            model[f"0:{num_started}"] = ("running", num_started, version)
            num_started += 1
        elif move == "restart" and (uid := pick("running")):
            buffer.restart(uid, version=version)
            model[uid] = ("running", model[uid][1], version)
        elif move == "finish" and (uid := pick("running")):
            buffer.finish(uid, uid, version=model[uid][2])
            model[uid] = ("ready", *model[uid][1:])
        elif move == "discard" and (uid := pick("running", "ready")):
            buffer.discard(uid)
            del model[uid]
        elif move == "reserve" and pick("ready") and not pick("training"):
            uids = {pick("ready"), pick("ready")}
            assert buffer.reserve(uids) == list(uids)
            model |= {uid: ("training", *model[uid][1:]) for uid in uids}
        elif move == "commit":
            buffer.commit()
            model = {uid: entry for uid, entry in model.items() if entry[0] != "training"}
        found = [
            (entry.uid, (place, entry.order, entry.version))
            for place in ("running", "ready", "training")
            for entry in getattr(buffer, place)
        ]
        assert sorted(found) == sorted(model.items()), "exactly one place"
        assert len(buffer) == len(model) <= CAPACITY
        assert all(uid in buffer for uid in model)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=100)
def test_every_group_is_in_exactly_one_place(seed):
    simulate(seed)


class Doubling(GroupBuffer):
    """Broken: what trains stays ready."""

    def reserve(self, uids):
        ready = dict(self._ready)
        groups = super().reserve(uids)
        self._ready = ready
        return groups


class BackOfTheQueue(GroupBuffer):
    """Broken: a restart costs the place in the order."""

    def restart(self, uid, *, version):
        del self._running[uid]
        self.start(uid, version=version)


@pytest.mark.parametrize("kind", [Doubling, BackOfTheQueue])
def test_that_law_notices_a_broken_move(kind):
    with pytest.raises(AssertionError, match="exactly one place"):
        for seed in range(20):
            simulate(seed, kind)
