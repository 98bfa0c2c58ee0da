"""Every shipped cluster of GPUs, planned, reserved with Ray and started, with GPUs by name only.

What is placed are the real roles of a plan; what is started are stand-ins, which look at where they
are. The stand-in of an engine refuses what vLLM refuses.
"""

import asyncio
from dataclasses import replace
from functools import partial

import pytest
import ray
from ray.cluster_utils import Cluster

from rlpost.cli.plan import prepared
from rlpost.cli.plan_machines import Hardware
from rlpost.cluster.session import Session
from rlpost.control.placement import Placement
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.roles import actors_of, start_roles

CLUSTERS = {
    "local_gpu": {"trainer.num_ranks": 1, "generator.num": 1},
    "node8": {},
    # Comes without numbers: docs/running.md gives them.
    "two_nodes": {"trainer.num_ranks": 4, "generator.num": 2, "generator.tensor_parallel_size": 2},
    "disaggregated": {"trainer.num_ranks": 8, "generator.num": 2},  # half of each side
}


@pytest.fixture(scope="module")
def nodes():
    cluster = Cluster()
    for name in ("n1", "n2"):
        cluster.add_node(node_name=name, num_cpus=8, num_gpus=8, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def eight_heads(tmp_path_factory):
    return build_tiny_llama(tmp_path_factory.mktemp("models") / "eight", hidden=256)


class Gpus:
    """Who is on which GPU, as the driver of real ones would know."""

    def __init__(self):
        self.trained = set()

    def train_on(self, gpus):
        self.trained |= set(gpus)

    def trains_on(self, gpus):
        return sorted(self.trained & set(gpus))


def own_gpus() -> list[tuple[str, str]]:
    context = ray.get_runtime_context()
    return [(context.get_node_id(), gpu) for gpu in context.get_accelerator_ids()["GPU"]]


class Rank:
    """One of those that train or score."""

    def __init__(self, gpus):
        self._gpus = gpus

    def setup(self):
        ray.get(self._gpus.train_on.remote(own_gpus()))
        return own_gpus()


class Engine:
    """Refuses, as vLLM does, a GPU of which a trainer already has memory."""

    def __init__(self, gpus):
        self._gpus = gpus

    def setup(self):
        taken = ray.get(self._gpus.trains_on.remote(own_gpus()))
        if taken:
            raise ValueError(f"free memory on {taken} is less than desired")
        return own_gpus()


class Group:
    """The ranks of a role."""

    def __init__(self, role, gpus, session):
        self._actors = [session.spawn(Rank, gpus, slot=actor.name) for actor in role.actors]
        self.places = []

    async def setup(self):
        self.places = await asyncio.gather(*(actor.setup.remote() for actor in self._actors))


@pytest.mark.parametrize("name", CLUSTERS)
async def test_every_role_gets_what_the_plan_says(nodes, eight_heads, name, caplog):
    options = {**CLUSTERS[name], "cluster.address": nodes.address, "model.path": eight_heads}
    overrides = [f"cluster={name}", *(f"{key}={value}" for key, value in options.items())]
    hardware = Hardware(nodes=2, gpus=8)
    plan = prepared("rl", ["experiment=grpo", *overrides], hardware)
    cfg = plan.cfg
    with Session(cfg.cluster, step_bytes=plan.step_size.bytes) as session:
        assert "the Ray node of the driver has an object store of 100 MiB" in caplog.text
        gpus = session.spawn(Gpus)
        roles = [
            replace(role, spawn=partial(Group, role, gpus)) if role.trained else role
            for role in plan.roles
            if role.actors
        ]
        engines = {}

        async def boot() -> None:
            names = [actor.name for actor in actors_of(roles) if actor.generates]
            spawned = [session.spawn(Engine, gpus, slot=name) for name in names]
            places = await asyncio.gather(*(actor.setup.remote() for actor in spawned))
            engines.update(zip(names, places, strict=True))

        (trainer, _) = await start_roles(roles, session, offload_idle=False, supervised=boot)
        ranks = [gpu for (gpu,) in trainer.places]
        assert len(set(ranks)) == cfg.trainer.num_ranks  # each its own
        assert len(engines) == cfg.generator.num
        for places in engines.values():  # tensor parallelism stays on one node
            assert len(places) == cfg.generator.tensor_parallel_size
            assert len({node for node, _ in places}) == 1
        generating = {gpu for places in engines.values() for gpu in places}
        if cfg.cluster.placement is Placement.colocated:
            assert generating <= set(ranks)
        else:
            assert not generating & set(ranks)
        if cfg.cluster.placement is Placement.apart:
            assert not {node for node, _ in generating} & {node for node, _ in ranks}
