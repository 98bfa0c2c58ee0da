"""How long a step of ``rlpost sft`` and ``rlpost pretrain`` takes.

Owns what their plans add to that of any rows: a KL to the start, and windows.
"""

from rlpost.roofline.steps import StepTime
from rlpost.stages.learning.timing import drawn, rows_time
from rlpost.stages.step_time import PlannedOn, compared_s
from rlpost.stages.supervised.likelihood import LikelihoodPlan


def timing(plan: LikelihoodPlan, on: PlannedOn, *, mean_response: float | None) -> StepTime:
    """Return the parts of a step of fine-tuning; see ``rows_time``."""
    work = drawn(plan, on)
    compared = plan.objective.kl_coefficient > 0
    scoring_s = compared_s(
        plan.roles, work, plan.cfg.trainer, reference=plan.cfg.reference, compared=compared
    )
    return rows_time(plan, on, work, mean_response=mean_response, scoring_s=scoring_s)


def timing_of_windows(
    plan: LikelihoodPlan, on: PlannedOn, *, mean_response: float | None
) -> StepTime:
    """Return the parts of a step of pre-training, whose tokens see their window."""
    work = drawn(plan, on, window=plan.cfg.data.window)
    return rows_time(plan, on, work, mean_response=mean_response)
