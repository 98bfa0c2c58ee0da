"""Which transport a plan says, from who shares a GPU with whom."""

import pytest

from rlpost.control.placement import ActorSpec, Node, Placement, assign_slots
from rlpost.errors import UserError
from rlpost.stages.sampling.push_plan import planned_transport
from rlpost.weights.publisher import WeightsConfig
from rlpost.weights.transports.choice import Transport

NODES = [Node(id=name, name=name, cpus=16, gpus=2) for name in ("n1", "n2")]


def slots(placement: Placement, *, num_ranks: int = 2, num_generators: int = 2):
    ranks = [
        ActorSpec(name=f"trainer rank {rank}", role="trainer", num_gpus=1)
        for rank in range(num_ranks)
    ]
    engines = [
        ActorSpec(name=f"generator {number}", role="generator", num_gpus=1)
        for number in range(num_generators)
    ]
    return assign_slots([*ranks, *engines], NODES, placement=placement)


def test_cuda_ipc_needs_a_rank_on_the_gpu_of_every_generator():
    cfg = WeightsConfig(transport=Transport.cuda_ipc)
    assert planned_transport(cfg, slots(Placement.colocated)) is Transport.cuda_ipc
    both_nodes = slots(Placement.colocated, num_ranks=4, num_generators=4)
    assert planned_transport(cfg, both_nodes) is Transport.cuda_ipc
    with pytest.raises(UserError, match="2 of the generators share theirs with none"):
        planned_transport(cfg, slots(Placement.packed))


def test_auto_and_nccl_follow_who_sits_where():
    apart, beside = slots(Placement.packed), slots(Placement.colocated)
    auto, nccl = WeightsConfig(), WeightsConfig(transport=Transport.nccl)
    assert planned_transport(auto, beside) is Transport.shared_memory
    assert planned_transport(auto, apart) is Transport.gloo  # on another node
    assert planned_transport(nccl, apart) is Transport.nccl
    with pytest.raises(UserError, match="NCCL refuses two members on one"):
        planned_transport(nccl, beside)
