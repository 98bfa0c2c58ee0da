"""How long a step of ``rlpost preference`` takes, on given pairs and on its own samples.

Owns what a comparison with a reference costs, and when.
"""

import math

from rlpost.models.shape import model_shape
from rlpost.roofline.steps import StepTime
from rlpost.stages.learning.timing import drawn, rows_time
from rlpost.stages.preference.config import ReferenceMode
from rlpost.stages.preference.online.plan import OnlinePlan
from rlpost.stages.preference.prepare import PreferencePlan
from rlpost.stages.sampling.timing import requests_of, sampled_step
from rlpost.stages.step_time import PlannedOn, Work, compared_s


def timing_rows(plan: PreferencePlan, on: PlannedOn, *, mean_response: float | None) -> StepTime:
    """Return the parts of a step on pairs, or on judged completions; see ``rows_time``.

    A reference that is not asked in each step scores all rows before the first. A loss that needs
    a KL asks it of mismatched rows, too. A prompt that a pair shares is counted twice.
    """
    cfg, sequences = plan.cfg, 1 if plan.cfg.is_judged else 2
    work = drawn(plan, on, sequences=sequences)
    compared = cfg.loss.needs_reference
    scoring_s = compared_s(
        plan.roles, work, cfg.trainer, reference=cfg.reference, compared=compared
    )
    live = cfg.has_second_model or cfg.reference.mode is ReferenceMode.live
    epochs = cfg.trainer.steps * cfg.examples_per_step / plan.splits.train.rows_per_epoch
    first_s = 0.0
    if not live:
        first_s = scoring_s * cfg.trainer.steps / max(1.0, math.ceil(epochs))
        scoring_s = 0.0
    if cfg.loss.needs_kl:
        scoring_s += work.own_forward_s(cfg.trainer)
    return rows_time(
        plan, on, work, mean_response=mean_response, scoring_s=scoring_s, first_s=first_s
    )


def timing_online(plan: OnlinePlan, on: PlannedOn, *, mean_response: float | None) -> StepTime:
    """Return the parts of a step that samples pairs: of each group two responses are learned.

    Raises:
        DoesNotFit: an engine cannot hold the weights and one sequence.
    """
    cfg = plan.cfg
    requests = requests_of(plan, prompts=cfg.examples_per_step, mean_response=mean_response)
    prompts = 1 if cfg.trainer.share_prompts else 2
    pair = prompts * requests.prompt_tokens + 2 * requests.lengths.mean
    work = Work(
        shape=model_shape(plan.model_path),
        device=on.trainer(cfg.trainer),
        k=on.efficiency,
        tokens=cfg.examples_per_step * pair,
        length=requests.prompt_tokens + requests.lengths.mean,
    )
    compared = cfg.loss.needs_reference
    return sampled_step(
        plan,
        on,
        requests,
        scoring_s=compared_s(
            plan.roles, work, cfg.trainer, reference=cfg.reference, compared=compared
        ),
        training_s=work.update_s(cfg.trainer),
    )
