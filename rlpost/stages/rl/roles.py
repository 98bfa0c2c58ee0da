"""Which models an RL run has: the one place that decides who exists.

Owns the list, in the order of slots, and the schedules of what is trained. Refuses to own the
arithmetic of memory (``*/memory.py``) and the order of set-up (stages/roles.py).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlpost.cluster.session import Device
from rlpost.config.schema import RLConfig
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.stages.reference_role import reference_role
from rlpost.stages.rl.models import RunModels
from rlpost.stages.roles import Role, trained_role
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.generation import generators_role, pushed_pages
from rlpost.stages.sampling.rewards_role import rewards_role
from rlpost.stages.sampling.verifiers_role import verifiers_role
from rlpost.training.model.loading import TrainedModel
from rlpost.training.settings import TrainerConfig
from rlpost.verifiers.base import VerifierConfig
from rlpost.weights.publisher import sender_factory


def roles_of(
    cfg: RLConfig,
    *,
    models: RunModels,
    generator: GeneratorConfig,
    adapters: AdapterCapacity | None,
    verifiers: Mapping[str, VerifierConfig],
    directory: RunDirectory,
    device: Device,
) -> list[Role]:
    """Return every role of a run, the ranks of a group in rank order."""
    common: dict[str, Any] = {"cluster": cfg.cluster, "device": device}
    policy = TrainedModel.policy(models.policy, cfg.trainer, adapter=models.checked.adapter)
    # The policy's schedule begins with its first update, after the critic's head start.
    steps = cfg.trainer.steps - cfg.critic.warmup_only_steps
    trainer = _per_update(replace(cfg.trainer, steps=steps), cfg)
    make_sender = sender_factory(
        cfg.weights,
        run_id=directory.host_wide_id,
        root=directory.root / ".weights",
        on_gpu=device is Device.cuda,
    )
    roles = [
        trained_role(
            "trainer",
            trainer,
            model=policy,
            seed=cfg.seed,
            make_sender=make_sender,
            sends=pushed_pages(models.policy, cfg.trainer, adapters),
            optimizer=cfg.optimizer,
            **common,
        )
    ]
    if cfg.critic.enabled:
        critic = _per_update(cfg.critic.trainer(cfg.trainer), cfg)
        model = TrainedModel.critic(models.critic, policy_path=models.policy)
        roles.append(trained_role("critic", critic, model=model, seed=cfg.seed, **common))
    if cfg.algorithm.kl.needs_reference and not policy.is_own_reference:
        ranks = cfg.reference
        roles.append(reference_role(cfg.trainer, model=policy, ranks=ranks, **common))
    if cfg.reward_models:
        roles.append(rewards_role(cfg, models.rewards, policy_path=models.policy, device=device))
    roles.append(
        generators_role(generator, model_path=models.policy, device=device, adapters=adapters)
    )
    if verifiers:
        roles.append(verifiers_role(cfg.cluster, verifiers, tokenizer=models.tokenizer))
    return roles


def _per_update(trainer: TrainerConfig, cfg: RLConfig) -> TrainerConfig:
    """The trainer's schedule counts optimizer updates; the configuration counts steps."""
    updates = cfg.algorithm.updates_per_step
    return replace(
        trainer, steps=trainer.steps * updates, warmup_steps=trainer.warmup_steps * updates
    )
