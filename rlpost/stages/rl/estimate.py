"""What an RL run trains in a step and writes, for the estimate of memory and disk.

Owns the size of a step. Refuses to own the sum (stages/estimate.py).
"""

from rlpost.stages.estimate import Estimate, add_up, response_bytes
from rlpost.stages.rl.plan import RLPlan


def estimate(plan: RLPlan, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``; see ``add_up``."""
    rollout, steps = plan.cfg.rollout, plan.cfg.trainer.steps
    responses = rollout.prompts_per_step * rollout.group_size
    return add_up(
        plan,
        tokens_per_step=rollout.prompts_per_step * plan.sampling.mean_prompt
        + responses * rollout.max_tokens,
        samples_bytes=responses * steps * response_bytes(rollout.max_tokens),
        gpu_bytes=gpu_bytes,
    )
