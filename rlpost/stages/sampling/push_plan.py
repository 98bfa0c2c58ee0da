"""What the pushes of a run will be like, before anything starts.

Owns the sentences of ``rlpost plan``, and what streams change in its memory. Refuses to own the
rule (weights/transports/choice.py) and the arithmetic (rollout/vllm/memory.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlpost.cluster.ranks import rank_name
from rlpost.control.placement import Node, Slot
from rlpost.models.shape import model_shape
from rlpost.rollout.vllm.memory import in_buckets
from rlpost.rollout.vllm.quantization import quantization_notes
from rlpost.stages.estimate import Estimate
from rlpost.training.precision import resolve_dtype
from rlpost.weights.protocol import BusConfig
from rlpost.weights.publisher import WeightsConfig
from rlpost.weights.transports.choice import WIRES, Transport, require_places, transport_between
from rlpost.weights.transports.stream_sender import BUCKET_BYTES


def push_notes(cfg: WeightsConfig, slots: Sequence[Slot]) -> list[str]:
    """Return how weights will travel from the trainer to generators; none where nobody pushes."""
    sender, generators = _ends(slots)
    if sender is None or not generators:
        return []
    chosen = planned_transport(cfg, slots)
    if cfg.transport is not Transport.auto:
        return [f"Weights travel by {chosen.value} (weights.transport)."]
    away = len(generators - {sender.id})
    where = f"some on {away} other node{'s' if away > 1 else ''}" if away else "all there"
    return [
        f"Weights travel by {chosen.value} (weights.transport=auto): the trainer sends from "
        f"{sender.name}, the generators sit {where}."
    ]


def with_pushes(estimate: Estimate, plan: Any, slots: Sequence[Slot]) -> Estimate:
    """Return the estimate with two buckets where weights are streamed, not whole payloads.

    A bucket is as large as the largest tensor at least.

    Raises:
        UserError: the transport that was asked for does not reach the generators.
    """
    sender, generators = _ends(slots)
    if sender is None or not generators:
        return estimate
    transport = planned_transport(plan.cfg.weights, slots)
    if transport not in WIRES:
        return estimate
    shape = model_shape(plan.model_path)
    largest = shape.width * max(shape.vocabulary, shape.feed_forward)
    found = in_buckets(
        estimate.footprints,
        bucket_bytes=max(BUCKET_BYTES, resolve_dtype(plan.cfg.trainer.dtype).itemsize * largest),
        on_gpu=transport is not Transport.gloo,
    )
    return replace(estimate, footprints=found)


def precision_notes(cfg: Any) -> list[str]:
    """Return how sampler and trainer will differ; none where they compute alike.

    Args:
        cfg: options of a stage that pushes a policy to generators, such as ``RLConfig``.
    """
    quantized = cfg.generator.is_quantized
    bus = BusConfig(exact=False, quantized=quantized, max_diff=cfg.weights.probe_max_diff)
    learns = getattr(cfg, "algorithm", None)
    return quantization_notes(
        cfg.generator,
        bound=bus.bound,
        corrected=None if learns is None else bool(learns.corrections),
    )


def planned_transport(cfg: WeightsConfig, slots: Sequence[Slot]) -> Transport:
    """Return how weights will travel between a trainer and generators that have ``slots``.

    Raises:
        UserError: the transport that was asked for does not reach them.
    """
    sender, generators = _ends(slots)
    assert sender is not None, "nobody sends"
    if cfg.transport is Transport.auto:
        return transport_between(sender.id, generators)
    require_places(
        cfg.transport,
        trainer=sender.id,
        generators=generators,
        shares_gpu=_share_gpu(slots),
        without_rank=_without_rank(slots),
    )
    return cfg.transport


def _share_gpu(slots: Sequence[Slot]) -> bool:
    """Whether a generator has a GPU of the bundle in which the trainer's first rank is."""
    (sender,) = (each for each in slots if each.actor.name == rank_name("trainer", 0))
    beside = [each for each in slots if each.bundle.index == sender.bundle.index]
    return sender.num_gpus > 0 and any(each.actor.generates for each in beside)


def _without_rank(slots: Sequence[Slot]) -> int:
    """Return how many generators have a bundle in which no rank of the trainer is."""
    trained = {each.bundle.index for each in slots if each.actor.role == "trainer"}
    return sum(each.actor.generates and each.bundle.index not in trained for each in slots)


def _ends(slots: Sequence[Slot]) -> tuple[Node | None, set[str]]:
    """Return the node of the trainer's first rank, and the ids of the generators' nodes."""
    nodes = {each.actor.name: each.bundle.node for each in slots}
    generators = {each.bundle.node.id for each in slots if each.actor.generates}
    return nodes.get(rank_name("trainer", 0)), generators
