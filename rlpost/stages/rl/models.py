"""Every model of a run, looked at before anything starts.

Owns what is asked of which model. Refuses to own the questions (stages/policy.py, models/,
training/model/rehearsal.py, rollout/vllm/architectures.py). Invariant: a model that passes can be
loaded, trained on packed tokens, pushed to generators and exported, as far as that can be known
without its weights.
"""

from dataclasses import dataclass
from typing import Any

from rlpost.config.schema import RLConfig
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.locate import locate_model
from rlpost.models.vocabulary import require_same_vocabulary
from rlpost.stages.policy import CheckedPolicy, check_policy
from rlpost.stages.sampling.backend import require_architecture
from rlpost.stages.sampling.rewards_role import check_reward_models
from rlpost.training.model.rehearsal import rehearse


@dataclass(frozen=True, kw_only=True)
class RunModels:
    """Where the models are, and what the policy's tokenizer and architecture are like."""

    checked: CheckedPolicy
    critic: str
    rewards: dict[str, str]

    @property
    def policy(self) -> str:
        return self.checked.path

    @property
    def tokenizer(self) -> Any:
        return self.checked.tokenizer


def check_models(cfg: RLConfig) -> RunModels:
    """Locate and check the models of a run.

    Raises:
        UserError: one cannot do what the run needs of it.
    """
    checked = check_policy(cfg.model, cfg.adapter, template_variables=cfg.data.chat_template_kwargs)
    policy = checked.directory
    require_architecture(cfg.generator, policy.config.architectures[0], field=policy.field)
    return RunModels(
        checked=checked,
        critic=_check_critic(cfg, policy),
        rewards=check_reward_models(cfg.reward_models),
    )


def _check_critic(cfg: RLConfig, policy: ModelDirectory) -> str:
    field = "critic.init_from"
    if cfg.critic.init_from is None:
        return str(policy.path)
    path = locate_model(cfg.critic.init_from, field=field)
    critic = ModelDirectory.read(path, field=field, kind=ModelKind.critic)
    rehearse(critic.shell(), field=field)
    if cfg.critic.enabled:
        critic.tokenizer()
        require_same_vocabulary(path, str(policy.path), field=field)
    return path
