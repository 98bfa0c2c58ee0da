"""How much memory vLLM needs, for each process of generators and of reward models served by it.

Owns the arithmetic; ``benchmarks/memory.py`` compares it with measurements. An engine has
two processes, the actor and vLLM's core, and a worker for each part of a model in several parts;
a model in one part is in the core. A payload crosses to a host once, into pages that all
workers there map (docs/decisions/0038), so it is a shared part of their footprints; of one that is
streamed, two buckets are there at a time (0039).
"""

from collections.abc import Sequence
from dataclasses import replace

from rlpost.models.footprint import Footprint
from rlpost.models.shape import ModelShape
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig, Quantization
from rlpost.rollout.vllm.classifier import CPU_CACHE_GIB, GPU_SHARE

GIB = 2**30
ACTOR_BYTES = 0.9 * GIB
CORE_BYTES = 0.78 * GIB
WORKER_BYTES = 0.95 * GIB
RECEIVED, SENT = "received weights", "weights being sent"  # pages of a host
IN_FLIGHT = "buckets of a push"


def generator_footprint(
    process: str,
    shape: ModelShape,
    cfg: GeneratorConfig,
    *,
    value_bytes: int,
    gpu_bytes: float | None,
    adapters: AdapterCapacity | None = None,
    pushed: bool = True,
) -> list[Footprint]:
    """Return the memory that one generator's processes and GPUs need.

    Args:
        process: the generator's name.
        shape: of the model.
        cfg: the generators'.
        value_bytes: of a weight as it is pushed: 4 or 2.
        gpu_bytes: memory of a GPU; None: on CPU.
        adapters: that it must hold; None: whole models.
        pushed: it gets versions of the model, or of the adapter, from a trainer.
    """
    workers = cfg.tensor_parallel_size
    weights = held_bytes(shape, cfg, value_bytes=value_bytes) / workers
    received = payload_bytes(shape, value_bytes=value_bytes, adapters=adapters)
    held, loading, pages = {}, 0.0, {RECEIVED: received} if pushed else {}
    if adapters is None and pushed:
        # What the kernels held before: on a CPU until the version is committed, of a GPU always.
        if gpu_bytes is None:
            loading = weights
        else:
            held = {"copy to go back to": weights}
    elif adapters is not None:
        loading = received
        # vLLM keeps each of them twice: as it came, and in a slot of the kernels.
        held = {"adapters": 2 * adapters.versions * loading}
    footprints = [Footprint(process=f"{process}: actor", kept={"libraries": ACTOR_BYTES})]
    if workers > 1:
        footprints.append(Footprint(process=f"{process}: core", kept={"libraries": CORE_BYTES}))
    for worker in range(workers):
        name = f"{process}: core" if workers == 1 else f"{process}: worker {worker}"
        kept = {"libraries": WORKER_BYTES, **held}
        if gpu_bytes is None:
            kept |= {"weights": weights, "KV cache": float((cfg.kv_cache_gib or 1) * GIB)}
        footprints.append(
            Footprint(
                process=name,
                kept=kept,
                phases={"loading a version": loading},
                shared=pages,
            )
        )
        if gpu_bytes is not None:
            room = cfg.gpu_memory_utilization * gpu_bytes
            parts = {"weights": weights, "KV cache and activations": max(0.0, room - weights)}
            if cfg.kv_cache_gib is not None:  # the rest is left to others
                parts = {"weights": weights, "KV cache": float(cfg.kv_cache_gib * GIB)}
            footprints.append(Footprint(process=name, kept=parts, on_gpu=True))
    return footprints


def sender_pages(
    shape: ModelShape, *, value_bytes: int, adapters: AdapterCapacity | None
) -> dict[str, float]:
    """Return the pages of who sends: of the version that is served, and of the one that arrives.

    Engines of its host map both, and need none of their own (docs/decisions/0038).
    """
    size_bytes = payload_bytes(shape, value_bytes=value_bytes, adapters=adapters)
    return {RECEIVED: size_bytes, SENT: size_bytes}


def in_buckets(
    footprints: Sequence[Footprint], *, bucket_bytes: float, on_gpu: bool
) -> list[Footprint]:
    """Return what processes need if weights are streamed: two buckets instead of whole payloads.

    Args:
        footprints: of sender and receivers, and of others, which stay as they are.
        bucket_bytes: most bytes of a bucket.
        on_gpu: buckets lie in the memory of GPUs, not on hosts.
    """
    sizes = {
        each.process: max(each.shared[name] for name in (RECEIVED, SENT) if name in each.shared)
        for each in footprints
        if {RECEIVED, SENT} & each.shared.keys()
    }

    def pages(each: Footprint) -> dict[str, float]:
        others = {name: b for name, b in each.shared.items() if name not in (RECEIVED, SENT)}
        if each.on_gpu != on_gpu:
            return others
        return others | {IN_FLIGHT: 2 * min(bucket_bytes, sizes[each.process])}

    return [
        replace(each, shared=pages(each)) if each.process in sizes else each for each in footprints
    ]


def held_bytes(shape: ModelShape, cfg: GeneratorConfig, *, value_bytes: int) -> float:
    """Return the bytes of the weights as an engine keeps them, in all its workers together."""
    if cfg.quantization is Quantization.none:
        return value_bytes * shape.parameters
    tables = shape.vocabulary * shape.width * (1 if shape.tied else 2)  # these stay as they are
    return value_bytes * tables + (shape.parameters - tables)


def payload_bytes(
    shape: ModelShape, *, value_bytes: int, adapters: AdapterCapacity | None
) -> float:
    """Return the bytes of a pushed version: of the model, or of one adapter."""
    values = shape.parameters if adapters is None else adapters.rank * adapted_width(shape)
    return float(value_bytes * values)


def adapted_width(shape: ModelShape) -> int:
    """Return inputs and outputs of all linear layers of the blocks: an adapter's size per rank."""
    heads, kv_heads = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 2 * (shape.width + heads) + 2 * (shape.width + kv_heads)
    return shape.layers * (attention + 3 * (shape.width + shape.feed_forward))


def classifier_footprint(
    process: str,
    shape: ModelShape,
    *,
    value_bytes: int,
    gpu_share: float | None,
    gpu_bytes: float | None,
) -> list[Footprint]:
    """Return the memory of a reward model in vLLM, whose engine runs in the actor itself."""
    libraries = Footprint(process=process, kept={"libraries": ACTOR_BYTES})
    weights = float(value_bytes * shape.parameters)
    if gpu_bytes is not None:
        room = (gpu_share or GPU_SHARE) * gpu_bytes
        parts = {"weights": weights, "KV cache and activations": max(0.0, room - weights)}
        return [libraries, Footprint(process=process, kept=parts, on_gpu=True)]
    kept = libraries.kept | {"weights": weights, "KV cache": float(CPU_CACHE_GIB * GIB)}
    return [Footprint(process=process, kept=kept)]
