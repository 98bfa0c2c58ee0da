"""The adapters of a server: names stand for one set of weights, and nothing enters what drains."""

import random

import pytest

from rlpost.control.served_adapters import (
    AdapterState,
    NameTaken,
    NoRoom,
    NoSuchAdapter,
    ServedAdapters,
    next_version,
)


def served(*names, room=4):
    adapters = ServedAdapters(base="base", room=room)
    for name in names:
        adapters.begin(name)
        adapters.bind(name, digest=f"weights of {name}", about={"path": name})
        adapters.serve(name)
    return adapters


def test_a_request_is_in_an_adapter_until_it_leaves():
    adapters = served("math")
    found = adapters.enter(1, "a")
    adapters.enter(1, "a")  # clients choose their requests' names
    adapters.leave(found, "a")
    assert (found.running, found.started) == (["a"], 2)


def test_nothing_enters_what_is_loading_draining_or_gone():
    adapters = served("math")
    adapters.begin("new")
    for number in (2, 3):
        with pytest.raises(NoSuchAdapter):
            adapters.enter(number, "a")
    assert adapters.drain("math").state is AdapterState.draining
    with pytest.raises(NoSuchAdapter, match="unloaded before"):
        adapters.enter(1, "a")
    with pytest.raises(NameTaken, match="math is draining"):
        adapters.drain("math")
    with pytest.raises(NameTaken, match="new is loading"):
        adapters.drain("new")
    adapters.forget("math")
    with pytest.raises(NoSuchAdapter, match="loaded: new"):
        adapters.drain("math")


@pytest.mark.parametrize("state", AdapterState)
def test_a_name_in_use_is_refused_with_the_next_one(state):
    adapters = served("math@2")
    next(iter(adapters)).state = state
    with pytest.raises(NameTaken, match="such as math@3"):
        adapters.begin("math@2")


def test_a_name_never_stands_for_other_weights():
    adapters = served("math")
    adapters.forget("math")
    adapters.begin("math")
    with pytest.raises(NameTaken, match="such as math@2"):
        adapters.bind("math", digest="others", about={})
    adapters.bind("math", digest="weights of math", about={})
    assert adapters.numbers == [2]  # an id is not used twice


def test_the_base_and_a_full_engine_refuse():
    adapters = served("a", "b", room=2)
    with pytest.raises(NameTaken, match="is the base itself"):
        adapters.begin("base")
    with pytest.raises(NoRoom, match=r"serve\.max_adapters=2"):
        adapters.begin("c")


def test_any_order_of_events_keeps_ids_unique_and_drained_adapters_closed():
    chance = random.Random(0)
    adapters, inside, ids = ServedAdapters(base="base", room=3), [], set()
    for step in range(2000):
        name = chance.choice("abcde")
        try:
            match chance.randrange(5):
                case 0:
                    number = adapters.begin(name).number
                    assert number not in ids
                    ids.add(number)
                    adapters.bind(name, digest=name, about={})
                    adapters.serve(name)
                case 1:
                    adapters.drain(name)
                case 2:
                    number = chance.choice(adapters.numbers or [0])
                    inside.append((adapters.enter(number, str(step)), str(step)))
                case 3 if inside:
                    adapters.leave(*inside.pop(chance.randrange(len(inside))))
                case _:
                    for each in adapters:
                        if each.state is AdapterState.draining and not each.running:
                            adapters.forget(each.name)
        except (NameTaken, NoRoom, NoSuchAdapter):
            continue
        assert len(adapters.numbers) <= 3
        held = {id(adapter) for adapter, _ in inside}
        assert held <= {id(each) for each in adapters}


@pytest.mark.parametrize(
    ("name", "following"),
    [("math", "math@2"), ("math@9", "math@10"), ("a@b", "a@b@2"), ("@2", "@2@2")],
)  # fmt: skip
def test_the_next_version(name, following):
    assert next_version(name) == following
