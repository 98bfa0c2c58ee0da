"""Online preference learning: what it needs of files, models and the machine before it starts.

Owns the plan and who exists. Refuses to own prompts, engines and judges (sampling/plan.py).
Invariant: everything that can be refused is refused here, before a file is written or a process
started.
"""

from dataclasses import dataclass

from rlpost.algorithms.preference import PreferenceObjective
from rlpost.cluster.session import Device, resolve_device
from rlpost.data.dataset import DataConfig
from rlpost.errors import UserError
from rlpost.stages.estimate import Estimate, add_up
from rlpost.stages.policy import CheckedPolicy
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.stages.preference.config import PreferenceConfig
from rlpost.stages.preference.prepare import STAGE, frozen_reference, packer_of
from rlpost.stages.reference_role import reference_role
from rlpost.stages.roles import Role
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.online_plan import (
    answering_policy,
    answering_roles,
    learning_role,
    with_steps,
)
from rlpost.stages.sampling.plan import SamplingPlan, plan_sampling
from rlpost.stages.sampling.rewards_role import check_reward_models, rewards_role
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.step_size import StepSize


@dataclass(frozen=True, kw_only=True)
class OnlinePlan:
    """A run that passed every check; nothing was written or started yet."""

    cfg: PreferenceConfig  # with the number of steps
    device: Device
    roles: list[Role]  # who exists
    objective: PreferenceObjective
    packer: ResponsePacker
    sampling: SamplingPlan
    has_adapter: bool  # on the policy

    @property
    def model_path(self) -> str:
        return self.sampling.model_path

    @property
    def data(self) -> DataConfig:
        return self.sampling.data

    @property
    def step_size(self) -> StepSize:
        pair = self.sampling.mean_prompt + 2 * self.cfg.rollout.max_tokens
        return StepSize(tokens=self.cfg.examples_per_step * pair)


def prepare_online(
    cfg: PreferenceConfig, *, directory: RunDirectory, device: Device | None = None
) -> OnlinePlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``check_preference``.
        directory: where the run will live.
        device: where models will run; None: what this machine has.

    Raises:
        UserError, DataError: something the user can fix.
    """
    policy = answering_policy(cfg)
    device = device or resolve_device(cfg.cluster)
    rewards = check_reward_models(cfg.reward_models)
    packer = packer_of(cfg, model_path=policy.path)
    sampling = plan_sampling(
        cfg,
        cfg.data.prompts(),
        policy=policy,
        rewards=rewards,
        device=device,
        room=_room_of_prompt(cfg),
    )
    cfg = with_steps(cfg, sampling)
    return OnlinePlan(
        cfg=cfg,
        device=device,
        roles=_roles(
            cfg,
            policy=policy,
            rewards=rewards,
            sampling=sampling,
            directory=directory,
            device=device,
        ),
        objective=PreferenceObjective(loss=cfg.loss, metrics=STAGE),
        packer=packer,
        sampling=sampling,
        has_adapter=policy.adapter is not None,
    )


def estimate_online(plan: OnlinePlan, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``; see ``add_up``."""
    pairs = plan.cfg.examples_per_step
    return add_up(
        plan,
        samples_bytes=plan.sampling.samples_bytes(plan.cfg, prompts_per_step=pairs),
        gpu_bytes=gpu_bytes,
    )


def _room_of_prompt(cfg: PreferenceConfig) -> int:
    """Return the tokens that a micro-batch, which holds a pair as a whole, leaves for a prompt."""
    size, longest = cfg.trainer.max_tokens_per_micro_batch, cfg.rollout.max_tokens
    room = size - 2 * longest if cfg.trainer.share_prompts else size // 2 - longest
    if room < 1:
        raise UserError(
            f"trainer.max_tokens_per_micro_batch={size} must hold a prompt and two responses of "
            f"rollout.max_tokens={longest} tokens, because a pair is never split; raise it"
        )
    return room


def _roles(
    cfg: PreferenceConfig,
    *,
    policy: CheckedPolicy,
    rewards: dict[str, str],
    sampling: SamplingPlan,
    directory: RunDirectory,
    device: Device,
) -> list[Role]:
    model = TrainedModel.policy(policy.path, cfg.trainer, metrics=STAGE, adapter=policy.adapter)
    roles = [learning_role(cfg, model, sampling, directory=directory, device=device)]
    if cfg.has_second_model:
        frozen = frozen_reference(cfg, model)
        roles.append(
            reference_role(
                cfg.trainer,
                model=frozen,
                ranks=cfg.reference,
                cluster=cfg.cluster,
                device=device,
            )
        )
    if rewards:
        roles.append(rewards_role(cfg, rewards, policy_path=policy.path, device=device))
    return [*roles, *answering_roles(cfg, sampling, policy=policy, device=device)]
