"""Where actors are placed, on clusters that exist only here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.control.placement import ActorSpec, Node, Placement, Slot, assign_slots, picture
from rlpost.errors import UserError


def nodes(*gpus: int, cpus: float = 64) -> list[Node]:
    return [Node(id=f"id{i}", name=f"n{i}", cpus=cpus, gpus=n) for i, n in enumerate(gpus)]


def trainers(num: int, *, num_gpus: int = 1) -> list[ActorSpec]:
    return [
        ActorSpec(name=f"trainer rank {rank}", role="trainer", num_gpus=num_gpus)
        for rank in range(num)
    ]


def generators(num: int, *, num_gpus: int = 1) -> list[ActorSpec]:
    return [
        ActorSpec(name=f"generator {i}", role="generator", num_gpus=num_gpus) for i in range(num)
    ]


def where(slots: list[Slot]) -> dict[str, str]:
    return {each.actor.name: each.bundle.node.name for each in slots}


def test_packed_fills_a_node_with_training_first():
    slots = assign_slots(
        [*generators(2, num_gpus=2), *trainers(4)], nodes(8), placement=Placement.packed
    )
    assert picture(slots) == [
        "n0: generator 0 (2 GPUs), generator 1 (2 GPUs), trainer rank 0 (1 GPU), "
        "trainer rank 1 (1 GPU), trainer rank 2 (1 GPU), trainer rank 3 (1 GPU)"
    ]
    slots = assign_slots(
        [*trainers(6), *generators(1, num_gpus=4)], nodes(8, 8), placement=Placement.packed
    )
    assert {where(slots)[f"trainer rank {rank}"] for rank in range(6)} == {"n0"}
    assert where(slots)["generator 0"] == "n1"  # two are left on n0, and it needs four


def test_apart_never_mixes_a_node():
    actors = [*trainers(2), *generators(3)]
    slots = where(assign_slots(actors, nodes(4, 4), placement=Placement.apart))
    assert slots["trainer rank 0"] == slots["trainer rank 1"] == "n0"
    assert {slots[f"generator {i}"] for i in range(3)} == {"n1"}
    with pytest.raises(UserError, match=r"apart leaves no node for generators.*placement=packed"):
        assign_slots(actors, nodes(8), placement=Placement.apart)


def test_without_gpus_cores_are_filled_and_then_shared_in_turn():
    actors = [*trainers(2, num_gpus=0), *generators(2, num_gpus=0)]
    alone = assign_slots(actors, nodes(0, cpus=2), placement=Placement.packed)
    assert set(where(alone).values()) == {"n0"}
    two = where(assign_slots(actors, nodes(0, 0, cpus=2), placement=Placement.packed))
    assert two == {
        "trainer rank 0": "n0",
        "trainer rank 1": "n0",
        "generator 0": "n1",
        "generator 1": "n1",
    }
    three = assign_slots(actors, nodes(0, 0, 0, cpus=2), placement=Placement.apart)
    assert [each.bundle.node.name for each in three] == ["n0", "n0", "n1", "n2"]


def test_a_node_without_cores_gets_nobody():
    hosts = [Node(id="head", name="head", cpus=0, gpus=0), *nodes(0)]
    assert set(
        where(assign_slots(generators(2, num_gpus=0), hosts, placement=Placement.packed)).values()
    ) == {"n0"}


def test_colocated_deals_every_role_over_the_gpus_of_the_ranks():
    critics = [ActorSpec(name=f"critic rank {r}", role="critic", num_gpus=1) for r in range(2)]
    slots = assign_slots(
        [*trainers(2), *critics, *generators(3)], nodes(8), placement=Placement.colocated
    )
    by_bundle: dict[int, list[str]] = {}
    for each in slots:
        by_bundle.setdefault(each.bundle.index, []).append(each.actor.name)
    assert by_bundle == {
        0: ["trainer rank 0", "critic rank 0", "generator 0", "generator 2"],
        1: ["trainer rank 1", "critic rank 1", "generator 1"],
    }
    assert {each.num_gpus for each in slots} == {0.25}
    with pytest.raises(UserError, match=r"generator 0 needs 2; use generator\.tensor_parallel"):
        assign_slots(
            [*trainers(1), *generators(1, num_gpus=2)], nodes(8), placement=Placement.colocated
        )
    with pytest.raises(UserError, match="nothing can be added or moved"):
        assign_slots(generators(1), nodes(8), placement=Placement.colocated, taken=slots)


def test_what_does_not_fit_is_refused_with_what_is_free():
    with pytest.raises(UserError, match=r"room for generator 1, .* 4 GPUs \(free: n0 2, n1 0\)"):
        actors = [*trainers(2), *generators(2, num_gpus=4)]
        assign_slots(actors, nodes(4, 4), placement=Placement.packed)


def test_a_seat_given_later_keeps_apart_from_training():
    first = assign_slots([*trainers(1), *generators(1)], nodes(4, 1, 4), placement=Placement.apart)
    assert where(first)["generator 0"] == "n1"
    later = [Node(id="id0", name="n0", cpus=64, gpus=3), Node(id="id2", name="n2", cpus=64, gpus=4)]
    (moved,) = assign_slots(generators(1), later, placement=Placement.apart, taken=first)
    assert moved.bundle.node.name == "n2"
    assert moved.bundle.index == 0  # of a reservation of its own


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=5),
    st.integers(1, 8),
    st.integers(0, 5),
    st.integers(1, 4),
    st.sampled_from([Placement.packed, Placement.apart]),
)
def test_no_gpu_is_promised_twice(gpus, num_ranks, num_generators, wide, placement):
    actors = [*trainers(num_ranks), *generators(num_generators, num_gpus=wide)]
    try:
        slots = assign_slots(actors, nodes(*gpus), placement=placement)
    except UserError:
        return
    assert [each.actor for each in slots] == actors
    for node, free in zip(nodes(*gpus), gpus, strict=True):
        here = [each for each in slots if each.bundle.node == node]
        assert sum(each.num_gpus for each in here) <= free
        if placement is Placement.apart:
            assert len({each.actor.generates for each in here}) <= 1
    assert sorted(each.bundle.index for each in slots) == list(range(len(slots)))
