"""What an evaluation needs in memory, and how much it asks of its models.

Owns the sum over the models and the number of requests. Refuses to own the arithmetic of memory
(rollout/vllm/memory.py, stages/sampling/) and how it is shown (cli/plan.py).
"""

from rlpost.checkpoint.space import format_bytes
from rlpost.cluster.session import Device
from rlpost.stages.estimate import Estimate, driver_footprint, response_bytes
from rlpost.stages.evaluate.plan import EvaluatePlan
from rlpost.stages.roles import Workload
from rlpost.stages.sampling.verifiers_role import verifiers_footprint


def estimate(plan: EvaluatePlan, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``.

    Args:
        plan: a checked evaluation. Two models answer one after the other, in the same slots, so
            the larger one counts.
        gpu_bytes: memory of one GPU; None: it is on CPU.
    """
    cfg, cluster = plan.cfg, plan.cfg.cluster
    # Nothing is trained, so there are no micro-batches.
    work = Workload(micro_batch_tokens=0, on_gpu=plan.device is Device.cuda, gpu_bytes=gpu_bytes)
    requests = sum(len(rows) for each in plan.examinees for rows in each.prompts.values())
    responses = requests * cfg.samples
    merged = max((e.adapter.size_bytes for e in plan.examinees if e.adapter is not None), default=0)
    size = format_bytes(responses * response_bytes(cfg.max_tokens) + merged)
    return Estimate(
        footprints=[each for role in plan.roles for each in role.memory(work)],
        unplaced=[
            driver_footprint(),
            *(verifiers_footprint(cluster, name=f"verifiers of {s.name}") for s in plan.sources),
        ],
        sentences=(
            f"It makes {requests:,} requests, one for each item and model, for {responses:,} "
            f"responses of at most {cfg.max_tokens:,} tokens: {responses * cfg.max_tokens:,} "
            "tokens at most.",
            f"On disk it takes up to {size}.",
        ),
        way_out="give the generators less (generator.kv_cache_gib on CPU, "
        "generator.gpu_memory_utilization on GPU), or have fewer of them (generator.num)",
    )
