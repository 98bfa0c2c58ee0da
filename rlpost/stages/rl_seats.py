"""Who of an RL run holds a model and therefore needs a seat."""

from rlpost.cluster.ranks import rank_name
from rlpost.cluster.reward import reward_name
from rlpost.cluster.session import Device
from rlpost.cluster.supervision import generator_name
from rlpost.cluster.trainers import REFERENCE
from rlpost.control.seating import Sitter
from rlpost.stages.rl_plan import RLPlan


def sitters_of(plan: RLPlan) -> list[Sitter]:
    """Return every actor that holds a model, the ranks of a group in rank order."""
    cfg = plan.cfg
    one = 1 if plan.device is Device.cuda else 0
    ranks = range(cfg.trainer.num_ranks)
    sitters = [Sitter(name=rank_name("trainer", r), role="trainer", num_gpus=one) for r in ranks]
    if cfg.critic.enabled:
        sitters += [Sitter(name=rank_name("critic", r), role="critic", num_gpus=one) for r in ranks]
    if cfg.algorithm.kl.needs_reference:
        sitters.append(Sitter(name=REFERENCE, role="reference", num_gpus=one))
    for name in cfg.reward_models:
        sitters.append(Sitter(name=reward_name(name), role="reward model", num_gpus=one))
    wide = one * plan.generator.tensor_parallel_size
    for index in range(plan.generator.num):
        sitters.append(Sitter(name=generator_name(index), role="generator", num_gpus=wide))
    return sitters
