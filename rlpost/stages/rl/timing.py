"""How long a step of an RL run would take, from its plan.

Owns the tokens of a step, and who scores them. Refuses to own engines and pushes
(sampling/timing.py) and the arithmetic (roofline/).
"""

from rlpost.config.schema import Anchor
from rlpost.models.shape import model_shape
from rlpost.roofline.generation import Requests
from rlpost.roofline.steps import StepTime
from rlpost.stages.rl.plan import RLPlan
from rlpost.stages.sampling.timing import requests_of, sampled_step
from rlpost.stages.step_time import PlannedOn, Work, compared_s
from rlpost.training.settings import TrainerConfig


def timing(plan: RLPlan, on: PlannedOn, *, mean_response: float | None) -> StepTime:
    """Return the parts of a step of ``plan``.

    Args:
        plan: a checked run.
        on: where its actors would be.
        mean_response: tokens of a response on average; None: all that are allowed.

    Raises:
        DoesNotFit: an engine cannot hold the weights and one sequence.
    """
    cfg = plan.cfg
    requests = requests_of(plan, prompts=cfg.rollout.prompts_per_step, mean_response=mean_response)
    work = Work(
        shape=model_shape(plan.model_path),
        device=on.trainer(cfg.trainer),
        k=on.efficiency,
        tokens=_tokens(requests, shared=cfg.trainer.share_prompts),
        length=requests.prompt_tokens + requests.lengths.mean,
    )
    updates, epochs = cfg.algorithm.updates_per_step, cfg.algorithm.epochs
    training = work.update_s(cfg.trainer, updates=updates, epochs=epochs)
    # As large as the policy, like the reference; a smaller one takes less.
    critic = cfg.critic.trainer(cfg.trainer) if cfg.critic.enabled else None
    if critic is not None:
        training += work.update_s(critic, updates=updates, epochs=epochs)
    return sampled_step(
        plan, on, requests, scoring_s=_scoring_s(plan, work, critic), training_s=training
    )


def _tokens(requests: Requests, *, shared: bool) -> float:
    """Return what a step packs: a shared prompt counts once."""
    prompts = 1 if shared else requests.samples
    each = prompts * requests.prompt_tokens + requests.samples * requests.lengths.mean
    return requests.prompts * each


def _scoring_s(plan: RLPlan, work: Work, critic: TrainerConfig | None) -> float:
    """Return what scores a step before it is trained on, one after the other."""
    cfg = plan.cfg
    compared = cfg.algorithm.kl.needs_reference
    seconds = compared_s(plan.roles, work, cfg.trainer, reference=cfg.reference, compared=compared)
    if cfg.algorithm.anchor is Anchor.proximal:
        seconds += work.own_forward_s(cfg.trainer)
    if critic is not None:
        seconds += work.own_forward_s(critic)
    return seconds
