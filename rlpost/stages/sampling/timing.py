"""How long the sampling part of a step takes: generation, and the push of new weights.

Owns what a plan says of engines and transport. Refuses to own what is trained in the step (each
stage's ``timing``) and the arithmetic (roofline/).
"""

from typing import Any

from rlpost.models.shape import model_shape
from rlpost.roofline.generation import Requests, generation_s
from rlpost.roofline.lengths import Lengths
from rlpost.roofline.pushing import push_s
from rlpost.roofline.steps import StepTime
from rlpost.stages.sampling.push_plan import planned_transport
from rlpost.stages.step_time import PlannedOn, engines_of, mean_length, trainer_of


def requests_of(plan: Any, *, prompts: int, mean_response: float | None) -> Requests:
    """Return what a step of ``plan`` asks its engines for: ``prompts`` groups.

    Args:
        plan: a checked run that samples.
        prompts: of the step.
        mean_response: tokens of a response on average; None: all that are allowed.
    """
    rollout = plan.cfg.rollout
    return Requests(
        prompts=prompts,
        samples=rollout.group_size,
        prompt_tokens=plan.sampling.mean_prompt,
        lengths=Lengths(
            mean=mean_length(rollout.max_tokens, mean_response), longest=rollout.max_tokens
        ),
    )


def sampled_step(
    plan: Any, on: PlannedOn, requests: Requests, *, scoring_s: float, training_s: float
) -> StepTime:
    """Return the parts of a step that samples, learns and pushes.

    Args:
        plan: a checked run that samples.
        on: where its actors would be.
        requests: of the step.
        scoring_s: of references, critics and teachers.
        training_s: of the update.

    Raises:
        DoesNotFit: an engine cannot hold the weights and one sequence.
    """
    cfg, k, shape = plan.cfg, on.efficiency, model_shape(plan.model_path)
    generator, ahead = plan.sampling.generator, cfg.rl.max_staleness
    device = on.engine(generator)
    transport = planned_transport(cfg.weights, on.slots)
    return StepTime(
        generation_s=generation_s(
            shape,
            device,
            engines_of(generator, device, shape),
            requests,
            overlapping=1 + ahead,
            k=k,
        ),
        scoring_s=scoring_s,
        training_s=training_s,
        push_s=push_s(
            trainer_of(plan).export_bytes, transport.value, on_gpu=on.gpu is not None, k=k
        ),
        switching_s=k.step_s if cfg.cluster.offload_idle else 0.0,
        overlaps=ahead > 0,
        steps=cfg.trainer.steps,
    )
