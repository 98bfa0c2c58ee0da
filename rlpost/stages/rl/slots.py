"""Which actors of an RL run hold a model and therefore need a slot."""

from collections import Counter

from rlpost.cluster.ranks import rank_name
from rlpost.cluster.reward import reward_name
from rlpost.cluster.session import Device
from rlpost.cluster.supervision import generator_name
from rlpost.cluster.trainers import REFERENCE
from rlpost.control.slots import ActorSpec
from rlpost.stages.rl.plan import RLPlan


def actors_of(plan: RLPlan) -> list[ActorSpec]:
    """Return every actor that holds a model, the ranks of a group in rank order."""
    cfg = plan.cfg
    one = 1 if plan.device is Device.cuda else 0
    groups = ("trainer", "critic") if cfg.critic.enabled else ("trainer",)
    actors = [
        ActorSpec(name=rank_name(group, rank), role=group, num_gpus=one)
        for group in groups
        for rank in range(cfg.trainer.num_ranks)
    ]
    if cfg.algorithm.kl.needs_reference:
        actors.append(ActorSpec(name=REFERENCE, role="reference", num_gpus=one))
    for name in cfg.reward_models:
        actors.append(ActorSpec(name=reward_name(name), role="reward model", num_gpus=one))
    wide = one * plan.generator.tensor_parallel_size
    for index in range(plan.generator.num):
        actors.append(ActorSpec(name=generator_name(index), role="generator", num_gpus=wide))
    return actors


def processes_of(plan: RLPlan) -> list[str]:
    """Return what is started, in words. Example: ``["2 trainer ranks", "1 generator"]``."""
    cluster = plan.cfg.cluster
    counts = Counter(
        f"{each.role} rank" if each.role in ("trainer", "critic") else each.role
        for each in actors_of(plan)
    )
    counts["verifier worker"] = cluster.verifier_actors * cluster.verifier_workers
    return [f"{count} {role}{'s' if count > 1 else ''}" for role, count in counts.items()]
