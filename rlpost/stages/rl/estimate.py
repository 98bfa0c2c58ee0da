"""What an RL run writes, for the estimate of memory and disk.

Owns the size of the samples. Refuses to own the sum (stages/estimate.py) and the size of a step
(plan.py).
"""

from rlpost.stages.estimate import Estimate, add_up
from rlpost.stages.rl.plan import RLPlan


def estimate(plan: RLPlan, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``; see ``add_up``."""
    prompts = plan.cfg.rollout.prompts_per_step
    return add_up(
        plan,
        samples_bytes=plan.sampling.samples_bytes(plan.cfg, prompts_per_step=prompts),
        gpu_bytes=gpu_bytes,
    )
