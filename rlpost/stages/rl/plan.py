"""Everything an RL run needs to know before anything starts.

Owns who exists. Refuses to own the checks of models (models.py), prompts, engines and judges
(sampling/plan.py). Invariant: everything that can be refused is refused here, before a file is
written or a process started.
"""

from dataclasses import dataclass

from rlpost.cluster.session import Device, resolve_device
from rlpost.config.schema import RLConfig
from rlpost.stages.rl.models import check_models
from rlpost.stages.rl.roles import roles_of
from rlpost.stages.roles import Role
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.plan import SamplingPlan, plan_sampling
from rlpost.training.packing.step_size import StepSize


@dataclass(frozen=True, kw_only=True)
class RLPlan:
    """An RL run that passed every check; nothing was written or started yet."""

    cfg: RLConfig
    device: Device
    roles: list[Role]  # who exists
    sampling: SamplingPlan
    has_adapter: bool  # on the policy

    @property
    def model_path(self) -> str:
        return self.sampling.model_path

    @property
    def step_size(self) -> StepSize:
        rollout = self.cfg.rollout
        prompt_and_responses = self.sampling.mean_prompt + rollout.group_size * rollout.max_tokens
        return StepSize(tokens=rollout.prompts_per_step * prompt_and_responses)


def prepare(cfg: RLConfig, *, directory: RunDirectory, device: Device | None = None) -> RLPlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``config/checks.py``.
        directory: where the run will live.
        device: where models will run; None: what this machine has.

    Raises:
        UserError, DataError: something the user can fix.
    """
    models = check_models(cfg)
    device = device or resolve_device(cfg.cluster)
    sampling = plan_sampling(
        cfg,
        cfg.data,
        policy=models.checked,
        rewards=models.rewards,
        device=device,
        room=cfg.trainer.max_tokens_per_micro_batch - cfg.rollout.max_tokens,
    )
    roles = roles_of(
        cfg,
        models=models,
        generator=sampling.generator,
        adapters=sampling.adapters,
        verifiers=sampling.verifiers,
        directory=directory,
        device=device,
    )
    return RLPlan(
        cfg=cfg,
        device=device,
        roles=roles,
        sampling=sampling,
        has_adapter=models.checked.adapter is not None,
    )
