"""What an RL run trains in a step and writes, for the estimate of memory and disk.

Owns the size of a step. Refuses to own the sum (stages/estimate.py).
"""

from rlpost.stages.estimate import Estimate, add_up
from rlpost.stages.rl.plan import RLPlan


def estimate(plan: RLPlan, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``; see ``add_up``."""
    rollout, prompts = plan.cfg.rollout, plan.cfg.rollout.prompts_per_step
    return add_up(
        plan,
        tokens_per_step=prompts
        * (plan.sampling.mean_prompt + rollout.group_size * rollout.max_tokens),
        samples_bytes=plan.sampling.samples_bytes(plan.cfg, prompts_per_step=prompts),
        gpu_bytes=gpu_bytes,
    )
