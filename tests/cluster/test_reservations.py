"""Slots on a real Ray cluster of several nodes, all on this machine, with GPUs by name only."""

import time
from collections.abc import Callable

import pytest
import ray
from ray.cluster_utils import Cluster

from rlpost.cluster.reservations import ask_nodes, living_nodes
from rlpost.cluster.session import ClusterConfig, Device, Session, resolve_device
from rlpost.control.placement import ActorSpec, Node, Placement
from rlpost.errors import NoAnswer, UserError

TRAINERS = [ActorSpec(name=f"trainer rank {r}", role="trainer", num_gpus=1) for r in range(2)]
GENERATORS = [ActorSpec(name=f"generator {i}", role="generator", num_gpus=2) for i in range(2)]


class Actor:
    def place(self):
        context = ray.get_runtime_context()
        return context.get_node_id(), context.get_accelerator_ids()["GPU"]


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster()
    for name, num_gpus in (("head", 2), ("n1", 2), ("n2", 4)):
        cluster.add_node(
            node_name=name, num_cpus=2, num_gpus=num_gpus, object_store_memory=100 << 20
        )
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def joined(cluster, placement=Placement.apart) -> Session:
    cfg = ClusterConfig(address=cluster.address, placement=placement, place_timeout_s=20)
    return Session(cfg)


def living() -> set[str]:
    return {node["NodeName"] for node in ray.nodes() if node["Alive"]}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def names() -> dict[str, str]:
    return {node["NodeID"]: node["NodeName"] for node in ray.nodes()}


def test_a_cluster_that_is_too_small_is_refused_before_anything_is_reserved(cluster):
    with joined(cluster, Placement.packed) as session:
        wide = [ActorSpec(name="generator 0", role="generator", num_gpus=8)]
        with pytest.raises(UserError, match="8 GPUs"):
            session.place([*TRAINERS, *wide])
        assert not ray.util.placement_group_table()


@pytest.mark.parametrize("device", [Device.auto, Device.cuda])
def test_gpus_of_other_nodes_count(cluster, device):
    """The driver's own host may have none."""
    asked = ClusterConfig(address=cluster.address, device=device)
    assert resolve_device(asked) is Device.cuda
    assert not ray.is_initialized()  # it left the cluster as it found it


def test_every_node_answers_for_itself(cluster):
    with joined(cluster) as session:
        del session
        nodes = living_nodes()
        own = ask_nodes(nodes, lambda: ray.get_runtime_context().get_node_id(), timeout_s=60)
        assert own == {node.id: node.id for node in nodes} and len(own) == 3
        gone = Node(id="0" * 56, name="n9", cpus=1, gpus=0)
        with pytest.raises(NoAnswer, match="n9 gave no answer"):
            ask_nodes([nodes[0], gone], lambda: 1, timeout_s=10)


def test_colocated_actors_share_one_gpu(cluster):
    with joined(cluster, Placement.colocated) as session:
        small = [TRAINERS[0], ActorSpec(name="generator 0", role="generator", num_gpus=1)]
        session.place(small)
        actors = [session.spawn(Actor, slot=each.name) for each in small]
        first, second = ray.get([actor.place.remote() for actor in actors], timeout=60)
        assert first == second


def test_seats_are_reserved_and_moved_when_their_node_dies(cluster):  # the last: a node is lost
    with joined(cluster) as session:
        slots = session.place([*TRAINERS, *GENERATORS])
        assert [each.bundle.node.name for each in slots] == ["head", "head", "n1", "n2"]
        node_of = names()

        def spawn(name: str) -> tuple[str, list[str]]:
            node, gpus = ray.get(session.spawn(Actor, slot=name).place.remote(), timeout=60)
            return node_of[node], gpus

        assert [spawn(each.name)[0] for each in TRAINERS] == ["head", "head"]
        assert spawn("generator 0") == ("n1", ["0", "1"])
        lost = next(n for n in cluster.worker_nodes if node_of[n.node_id] == "n1")
        cluster.remove_node(lost, allow_graceful=False)
        wait_until(lambda: "n1" not in living())
        assert spawn("generator 0")[0] == "n2"  # moved; a replacement for the lost one
        with pytest.raises(NoAnswer, match="no node has room for generator 2"):
            session.spawn(Actor, slot="generator 2")  # both halves of n2 are taken
