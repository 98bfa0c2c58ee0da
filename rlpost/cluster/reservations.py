"""Slots reserved as Ray placement groups.

Owns reservation and what happens to a slot whose node is gone. Refuses to own the decision
(control/placement.py). Invariants: the slots of a run are reserved all at once or not at all; an
actor that is replaced takes its predecessor's slot while that node lives.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rlpost.control.placement import ActorSpec, Node, Placement, Slot, assign_slots
from rlpost.errors import NoAnswer, UserError

log = logging.getLogger(__name__)
T = TypeVar("T")

# A bundle must hold something; cores are shared in turn, which Ray's bookkeeping cannot express.
CPU_OF_A_BUNDLE = 0.001
NODE_ID_LABEL = "ray.io/node-id"


class Reservations:
    """The reserved slots of one run.

    Args:
        actors: every actor that holds a model from the start, the ranks of a group in rank order.
        placement: how they share the cluster.
        timeout_s: deadline of a reservation.

    Raises:
        UserError: not every actor fits.
        NoAnswer: others hold what was free a moment ago.
    """

    def __init__(
        self, actors: Sequence[ActorSpec], *, placement: Placement, timeout_s: float
    ) -> None:
        self._placement = placement
        self._timeout_s = timeout_s
        self._groups: dict[str, Any] = {}  # actor -> placement group
        self._slots: dict[str, Slot] = {}
        self._reserve(assign_slots(actors, living_nodes(), placement=placement))

    @property
    def taken(self) -> list[Slot]:
        return list(self._slots.values())

    def options(self, name: str) -> dict[str, Any]:
        """Return the Ray options of an actor: its old slot, or a new one where there is room.

        A name without a slot is a generator that joins.

        Raises:
            NoAnswer: there is no room.
        """
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        nodes = living_nodes()
        known = self._slots.get(name)
        if known is None or known.bundle.node.id not in {node.id for node in nodes}:
            self._move(name, nodes)
        where = self._slots[name]
        return {
            "num_cpus": 0,
            "num_gpus": where.num_gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self._groups[name],
                placement_group_bundle_index=where.bundle.index,
            ),
        }

    def _move(self, name: str, nodes: Sequence[Node]) -> None:
        lost = self._slots.pop(name, None)
        actor = self._another_generator(name) if lost is None else lost.actor
        try:
            slots = assign_slots([actor], nodes, placement=self._placement, taken=self.taken)
        except UserError as error:  # in the middle of a run it is nobody's typing error
            raise NoAnswer(str(error)) from error
        self._reserve(slots)
        log.info("%s runs on %s", name, slots[0].bundle.node.name)

    def _another_generator(self, name: str) -> ActorSpec:
        like = next(s.actor for s in self._slots.values() if s.actor.generates)
        return replace(like, name=name)

    def _reserve(self, slots: Sequence[Slot]) -> None:
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group

        bundles = {each.bundle.index: each.bundle for each in slots}
        in_order = [bundles[index] for index in sorted(bundles)]
        group = placement_group(
            [_resources(bundle.num_gpus) for bundle in in_order],
            bundle_label_selector=[{NODE_ID_LABEL: bundle.node.id} for bundle in in_order],
        )
        try:
            ray.get(group.ready(), timeout=self._timeout_s)
        except ray.exceptions.GetTimeoutError as error:
            remove_placement_group(group)
            raise NoAnswer(
                f"Ray did not reserve {_listed(slots)} in cluster.place_timeout_s="
                f"{self._timeout_s:g}; another job may have taken the GPUs"
            ) from error
        for each in slots:
            self._slots[each.actor.name] = each
            self._groups[each.actor.name] = group


def living_nodes() -> list[Node]:
    """Return the cluster's nodes with their free GPUs, the driver's node first."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    own = ray.get_runtime_context().get_node_id()
    nodes = [
        Node(
            id=node["NodeID"],
            name=node["NodeName"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=int(free.get(node["NodeID"], {}).get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.id != own, node.name, node.id))


def ask_nodes(
    nodes: Sequence[Node], question: Callable[[], T], *, timeout_s: float
) -> dict[str, T]:
    """Call ``question`` on every node at once; returns node id -> answer.

    Raises:
        NoAnswer: a node is gone, late, or cannot tell; it is named.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(question)
    asked = {
        node: remote.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote()
        for node in nodes
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_s)
    answers = {}
    for node, reference in asked.items():
        try:
            answers[node.id] = ray.get(reference, timeout=0)
        except ray.exceptions.RayError as error:  # a missed deadline is one
            raise NoAnswer(f"{node.name} gave no answer within {timeout_s:g} s: {error}") from error
    return answers


def _resources(num_gpus: int) -> dict[str, float]:
    gpus = {"GPU": float(num_gpus)} if num_gpus else {}
    return {"CPU": CPU_OF_A_BUNDLE, **gpus}


def _listed(slots: Sequence[Slot]) -> str:
    return ", ".join(f"{each.actor.name} on {each.bundle.node.name}" for each in slots)
