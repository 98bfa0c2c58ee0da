"""How much memory an SGLang server needs, for each of its processes.

Owns the arithmetic; ``benchmarks/sglang_contract.py`` prints what processes take. Beside the actor
there are a server, which has the tokenizer, a detokenizer, and a scheduler for each part of a
model.
"""

from rlpost.models.footprint import Footprint
from rlpost.models.shape import ModelShape
from rlpost.rollout.generator_config import GeneratorConfig

GIB = 2**30
ACTOR_BYTES = 0.9 * GIB  # as with vLLM: the same libraries
PROCESS_BYTES = 0.78 * GIB  # the libraries of each process of a server: 0.61 to 0.78 seen


def server_footprint(
    process: str,
    shape: ModelShape,
    cfg: GeneratorConfig,
    *,
    value_bytes: int,
    gpu_bytes: float | None,
) -> list[Footprint]:
    """Return the memory that one generator's processes and GPUs need.

    Args:
        process: the generator's name.
        shape: of the model.
        cfg: the generators'.
        value_bytes: of a weight: 4 or 2.
        gpu_bytes: memory of a GPU; None: on CPU.
    """
    workers = cfg.tensor_parallel_size
    whole = float(value_bytes * shape.parameters)
    # Files in shared memory: the version that is served, and the one that arrives (payload.py).
    actor = {"libraries": ACTOR_BYTES, "versions in shared memory": 2 * whole}
    plain = {"libraries": PROCESS_BYTES}
    found = [Footprint(process=f"{process}: actor", kept=actor)]
    found += [Footprint(process=f"{process}: {n}", kept=plain) for n in ("server", "detokenizer")]
    for worker in range(workers):
        name = f"{process}: scheduler {worker}"
        if gpu_bytes is None:
            cache = float((cfg.kv_cache_gib or 1) * GIB)
            kept = {**plain, "weights": whole / workers, "KV cache": cache}
            found.append(Footprint(process=name, kept=kept))
        else:
            room = cfg.gpu_memory_utilization * gpu_bytes
            on_gpu = {"weights": whole / workers, "KV cache": max(0.0, room - whole / workers)}
            found.append(Footprint(process=name, kept=plain))
            found.append(Footprint(process=name, kept=on_gpu, on_gpu=True))
    return found
