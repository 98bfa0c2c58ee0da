"""What ``rlpost plan`` says of GPUs that would have to hold more than they can."""

from rlpost.cli.plan_memory import full_gpus
from rlpost.control.placement import ActorSpec, Node, Placement, assign_slots
from rlpost.models.footprint import Footprint
from rlpost.stages.estimate import Estimate

GIB = 2**30


def test_gpus_that_are_alike_are_named_once():
    sizes = {"generator 0": 3, "generator 1": 3, "generator 2": 3, "generator 3": 1, "judge": 3}
    actors = [ActorSpec(name=name, role=name, num_gpus=1) for name in sizes]
    nodes = [Node(id=str(n), name=f"node {n}", cpus=64, gpus=3) for n in range(2)]
    slots = assign_slots(actors, nodes, placement=Placement.packed)
    footprints = [
        Footprint(process=name, kept={"weights": float(size * GIB)}, on_gpu=True)
        for name, size in sizes.items()
    ]
    found = Estimate(footprints=footprints, unplaced=[], sentences=(), way_out="")
    assert full_gpus(found, slots, 2.0 * GIB) == [
        "GPU of generator 0 and 2 alike: 3.0 of 2.0 GiB",
        "GPU of judge: 3.0 of 2.0 GiB",
    ]
    assert full_gpus(found, slots, 3.0 * GIB) == full_gpus(found, slots, None) == []
