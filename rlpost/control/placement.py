"""Which actor runs on which node, and on how much of its GPUs.

Owns the decision. Refuses to own the reservation (cluster/reservations.py). Invariants: a GPU has
one actor, or several only with ``colocated``; the ranks of a group are placed on as few nodes
as possible, in rank order; actors that do not fit are refused before anything starts. Pure.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rlpost.errors import UserError


class Placement(Enum):
    """How training and generation share a cluster.

    ``packed``: every actor has GPUs of its own; training first, as close together as it fits.
    ``apart``: likewise, and no node holds both: a lost node costs one side only.
    ``colocated``: all roles share the GPUs of the trainer's ranks, each a part.
    """

    packed = "packed"
    apart = "apart"
    colocated = "colocated"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine and its free resources. Example: ``Node(id="ab", name="n1", cpus=16, gpus=8)``."""

    id: str
    name: str
    cpus: float
    gpus: int


@dataclass(frozen=True, kw_only=True)
class ActorSpec:
    """An actor that holds a model. Example: ``ActorSpec(name="generator 0", role="generator")``."""

    name: str
    role: str  # generator, or one of those that train or score: trainer, critic, ...
    num_gpus: int = 0  # 0: on CPU

    @property
    def generates(self) -> bool:
        return self.role == "generator"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Resources that are reserved together on one node."""

    index: int  # among the bundles reserved together
    node: Node
    num_gpus: int


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The place of one actor. Example: half of a GPU: ``num_gpus=0.5`` in a bundle of one."""

    actor: ActorSpec
    bundle: Bundle
    num_gpus: float


def assign_slots(
    actors: Sequence[ActorSpec],
    nodes: Sequence[Node],
    *,
    placement: Placement,
    taken: Sequence[Slot] = (),
) -> list[Slot]:
    """Return a slot for each of ``actors``, in their order.

    Args:
        actors: those without a slot; ranks of a group in rank order.
        nodes: nodes that are alive, the driver's first, with their free resources.
        placement: how training and generation share the nodes.
        taken: slots that other actors of this run keep; ``nodes`` does not count them as free.

    Raises:
        UserError: not every actor fits.
    """
    if placement is Placement.colocated:
        return _colocated(actors, nodes, taken=taken)
    room = _Room(nodes, taken)
    training = [room.give(actor, nodes) for actor in actors if not actor.generates]
    places = nodes
    if placement is Placement.apart:
        used = {each.bundle.node.id for each in (*training, *taken) if not each.actor.generates}
        places = [node for node in nodes if node.id not in used]
        if not places:
            raise UserError(
                f"cluster.placement=apart leaves no node for generators: training is on all of "
                f"{', '.join(node.name for node in nodes)}; add a node, or use "
                "cluster.placement=packed"
            )
    generating = [room.give(actor, places) for actor in actors if actor.generates]
    given = {each.actor.name: each for each in (*training, *generating)}
    return [given[actor.name] for actor in actors]


def _colocated(
    actors: Sequence[ActorSpec], nodes: Sequence[Node], *, taken: Sequence[Slot]
) -> list[Slot]:
    """Distribute each role over bundles, of which there is one per trainer rank."""
    if taken:
        raise UserError(
            "cluster.placement=colocated divides the GPUs when the run starts: nothing can be "
            "added or moved later; use cluster.placement=packed for that"
        )
    for actor in actors:
        if actor.num_gpus > 1:
            raise UserError(
                f"cluster.placement=colocated gives a part of one GPU to each, and {actor.name} "
                f"needs {actor.num_gpus}; use generator.tensor_parallel_size=1, or "
                "cluster.placement=packed"
            )
    room = _Room(nodes, ())
    bundles = [room.give(s, nodes).bundle for s in actors if s.role == "trainer"]
    dealt: Counter[str] = Counter()
    places = []
    for actor in actors:
        places.append(bundles[dealt[actor.role] % len(bundles)])
        dealt[actor.role] += 1
    most = max(Counter(places).values())
    return [
        Slot(actor=actor, bundle=bundle, num_gpus=bundle.num_gpus / most)
        for actor, bundle in zip(actors, places, strict=True)
    ]


class _Room:
    """The free resources of each node while slots are assigned."""

    def __init__(self, nodes: Sequence[Node], taken: Sequence[Slot]) -> None:
        self._gpus = {node.id: node.gpus for node in nodes}
        self._actors_on = Counter(each.bundle.node.id for each in taken)
        self._num_given = 0

    def give(self, actor: ActorSpec, places: Sequence[Node]) -> Slot:
        """Return a slot on the first of ``places`` that has room."""
        fitting = [n for n in places if n.cpus > 0 and self._gpus[n.id] >= actor.num_gpus]
        if not fitting:
            free = ", ".join(f"{node.name} {self._gpus[node.id]}" for node in places)
            raise UserError(
                f"no node has room for {actor.name}, which needs {actor.num_gpus} GPUs (free: "
                f"{free or 'no node'}); lower trainer.num_ranks, generator.num or "
                "generator.tensor_parallel_size, or share with cluster.placement=colocated"
            )
        if actor.num_gpus:
            node = fitting[0]
        else:  # an actor without a GPU fits on every node
            node = min(fitting, key=self._load if actor.generates else self._crowding)
        self._gpus[node.id] -= actor.num_gpus
        self._actors_on[node.id] += 1
        bundle = Bundle(index=self._num_given, node=node, num_gpus=actor.num_gpus)
        self._num_given += 1
        return Slot(actor=actor, bundle=bundle, num_gpus=actor.num_gpus)

    def _crowding(self, node: Node) -> float:
        """Actors beyond one per core: ranks stay together while there are free cores."""
        return max(0.0, self._actors_on[node.id] + 1 - node.cpus)

    def _load(self, node: Node) -> float:
        """Actors per core: generators are spread over the nodes."""
        return self._actors_on[node.id] / node.cpus


def picture(slots: Sequence[Slot]) -> list[str]:
    """Return one line per node. Example: ``"n1: trainer rank 0 (1 GPU), generator 0 (2 GPUs)"``."""
    lines: dict[str, list[str]] = {}
    for each in slots:
        share = f"{each.num_gpus:.3g} GPU{'s' if each.num_gpus > 1 else ''}"
        who = f"{each.actor.name} ({share})" if each.num_gpus else each.actor.name
        lines.setdefault(each.bundle.node.id, [f"{each.bundle.node.name}:"]).append(who)
    return [f"{node} {', '.join(actors)}" for node, *actors in lines.values()]
