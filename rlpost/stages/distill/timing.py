"""How long a step of ``rlpost distill`` takes, on given responses and on the student's own.

Owns what the teacher costs: a forward pass in each rank of the student, or one over all rows
before the first step where a store is filled.
"""

from rlpost.models.shape import model_shape
from rlpost.roofline.steps import StepTime
from rlpost.stages.distill.online import OnlineDistillPlan
from rlpost.stages.distill.prepare import DistillPlan
from rlpost.stages.learning.timing import drawn, rows_time
from rlpost.stages.sampling.timing import requests_of, sampled_step
from rlpost.stages.step_time import PlannedOn, Work


def timing_rows(plan: DistillPlan, on: PlannedOn, *, mean_response: float | None) -> StepTime:
    """Return the parts of a step on given responses; see ``rows_time``."""
    work = drawn(plan, on)
    scoring_s, first_s = 0.0, 0.0
    if plan.teacher is not None:
        scoring_s = _taught_s(plan, work, plan.teacher.model.path)
    elif plan.stored is not None and plan.stored.teacher is not None:
        every = drawn(plan, on, rows=plan.splits.train.rows_per_epoch)
        first_s = _taught_s(plan, every, plan.stored.teacher.model.path)
    return rows_time(
        plan, on, work, mean_response=mean_response, scoring_s=scoring_s, first_s=first_s
    )


def timing_online(
    plan: OnlineDistillPlan, on: PlannedOn, *, mean_response: float | None
) -> StepTime:
    """Return the parts of a step on the student's own responses, which it learns all.

    Raises:
        DoesNotFit: an engine cannot hold the weights and one sequence.
    """
    cfg = plan.cfg
    requests = requests_of(plan, prompts=cfg.examples_per_step, mean_response=mean_response)
    length = requests.prompt_tokens + requests.lengths.mean
    work = Work(
        shape=model_shape(plan.model_path),
        device=on.trainer(cfg.trainer),
        k=on.efficiency,
        tokens=requests.prompts * requests.samples * length,
        length=length,
    )
    return sampled_step(
        plan,
        on,
        requests,
        scoring_s=_taught_s(plan, work, plan.teacher.model.path),
        training_s=work.update_s(cfg.trainer),
    )


def _taught_s(plan: DistillPlan | OnlineDistillPlan, work: Work, path: str) -> float:
    """Return the seconds in which the teacher at ``path`` reads the work, in its ranks."""
    trainer = plan.cfg.trainer
    return work.of(model_shape(path)).forward_s(
        trainer,
        devices=trainer.num_ranks,
        zero_stage=plan.cfg.teacher.zero_stage,
        sharing=trainer.sequence_parallel_size,
    )
