"""Rules between fields of different dataclasses.

Owns what no single dataclass can see; each checks itself (rlpost/bounds.py). Invariant: an
impossible combination fails here, at compose, with field, value, rule and way out, before
anything is read or written.
"""

from rlpost.algorithms.advantages import check_group_size
from rlpost.algorithms.kl import KLConfig, KLPlacement
from rlpost.algorithms.kl_controller import AdaptiveKLConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.algorithms.shaping import DynamicSamplingConfig, ShapingConfig
from rlpost.bounds import check_config
from rlpost.config.judges import check_components, check_judges
from rlpost.config.schema import Anchor, CriticRoleConfig, RLConfig
from rlpost.control.staleness import OnOverage, StalenessConfig
from rlpost.errors import UserError
from rlpost.stages.results import check_results
from rlpost.stages.sampling.generator_settings import check_deadlines
from rlpost.training.adapters.check import check_adapter
from rlpost.training.adapters.config import is_own_reference, require_comparable
from rlpost.training.optimizers.check import check_optimizer
from rlpost.training.settings import require_reference


def check_rl(cfg: RLConfig) -> None:
    """Refuse settings of ``rlpost rl`` that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_config(cfg)
    require_comparable(cfg.adapter, why="log-probs of sampler and trainer are compared")
    _check_estimator(cfg)
    _check_idle_options(cfg)
    _check_critic(cfg)
    check_optimizer(cfg.optimizer, cfg.trainer)
    _check_corrections(cfg)
    check_overage(cfg.rl)
    check_judges(cfg)
    check_components(cfg)
    _check_sizes(cfg)
    check_deadlines(cfg)
    check_results(cfg)
    check_adapter(cfg.adapter, cfg.trainer)


def _check_estimator(cfg: RLConfig) -> None:
    advantage, rollout = cfg.algorithm.advantage, cfg.rollout
    check_group_size(rollout.group_size, minimum=advantage.min_group)
    if cfg.algorithm.kl.placement is KLPlacement.reward and not advantage.token_level:
        raise UserError(
            f"algorithm.kl.placement=reward needs rewards per token, which algorithm/advantage="
            f"{advantage.kind} does not take; use placement=loss, or gae or reinforce_pp"
        )
    if advantage.needs_group and not cfg.selection.keeps_everything:
        raise UserError(
            f"algorithm/advantage={advantage.kind} compares all responses of a group, but "
            "selection.* leaves only some; use algorithm=rft with loss=nll, or drop selection.*"
        )
    if advantage.needs_greedy and (
        cfg.algorithm.shaping != ShapingConfig()
        or any(model.normalize for model in cfg.reward_models.values())
    ):
        raise UserError(
            f"algorithm/advantage={advantage.kind} subtracts the greedy response's raw reward, so "
            "algorithm.shaping.* and reward_models.*.normalize cannot be used with it; leave them "
            "out, or use algorithm=rloo"
        )
    if advantage.kind == "constant" and cfg.selection.keeps_everything:
        raise UserError(
            "algorithm/advantage=constant imitates every response that selection.* keeps, and "
            "nothing is selected; set selection.min_reward or selection.best"
        )
    if cfg.algorithm.dynamic_sampling.enabled and advantage.needs_components:
        raise UserError(
            "algorithm.dynamic_sampling.enabled=true judges groups by one reward, and "
            f"algorithm/advantage={advantage.kind} learns from several; turn it off"
        )
    if cfg.algorithm.dynamic_sampling.enabled and rollout.group_size < 2:
        raise UserError(
            "algorithm.dynamic_sampling.enabled=true compares the rewards of a group; "
            f"rollout.group_size must be at least 2, got {rollout.group_size}"
        )


def _check_idle_options(cfg: RLConfig) -> None:
    """Refuse options of something that is switched off."""
    kl, sampling = cfg.algorithm.kl, cfg.algorithm.dynamic_sampling
    if kl.coefficient == 0 and kl != KLConfig():
        raise UserError(
            "algorithm.kl.* has no effect with algorithm.kl.coefficient=0; set the coefficient, "
            "0.001 to 0.05 is usual"
        )
    if not kl.adaptive.enabled and kl.adaptive != AdaptiveKLConfig():
        raise UserError(
            "algorithm.kl.adaptive.* has no effect with algorithm.kl.adaptive.enabled=false; "
            "enable it, or leave its options out"
        )
    own = is_own_reference(cfg.adapter, start=cfg.model.adapter)
    require_reference(
        cfg.reference,
        exists=kl.needs_reference and not own,
        way_out="set algorithm.kl.coefficient",
    )
    if not sampling.enabled and sampling != DynamicSamplingConfig():
        raise UserError(
            "algorithm.dynamic_sampling.* has no effect with algorithm.dynamic_sampling."
            "enabled=false; enable it, or leave its options out"
        )


def check_overage(cfg: StalenessConfig) -> None:
    """Raises UserError: what happens to old responses is said where none gets old."""
    if cfg.on_overage is OnOverage.drop and not cfg.runs_ahead:
        raise UserError(
            "rl.on_overage=drop has no effect on-policy, where nothing ages; set "
            "rl.max_staleness or rl.oversample, or leave it out"
        )


def _check_critic(cfg: RLConfig) -> None:
    kind = cfg.algorithm.advantage.kind
    if cfg.algorithm.advantage.needs_critic and not cfg.critic.enabled:
        raise UserError(
            f"algorithm/advantage={kind} needs a critic, but critic.enabled=false; set "
            "critic.enabled=true, or use an estimator without one, such as rloo"
        )
    if cfg.critic.enabled and not cfg.algorithm.advantage.needs_critic:
        raise UserError(
            f"critic.enabled=true has no effect with algorithm/advantage={kind}, which reads no "
            "values; use algorithm/advantage=gae, or leave the critic out"
        )
    if not cfg.critic.enabled and cfg.critic != CriticRoleConfig():
        raise UserError(
            "critic.* has no effect with critic.enabled=false; set critic.enabled=true and "
            "algorithm=ppo, or leave critic.* out"
        )
    if cfg.critic.enabled:
        cfg.critic.trainer(cfg.trainer)


def _check_corrections(cfg: RLConfig) -> None:
    algorithm = cfg.algorithm
    objective = PolicyObjective(
        loss=cfg.loss,
        kl=algorithm.kl,
        entropy_coefficient=algorithm.entropy_coefficient,
        corrections=algorithm.corrections,
    )
    objective.check("algorithm.corrections")
    idle = [name for name, stage in algorithm.corrections.items() if stage.needs_proximal]
    if idle and algorithm.anchor is Anchor.rollout:
        raise UserError(
            f"algorithm/corrections={idle[0]} compares the proximal policy with the sampler, "
            "which are the same with algorithm.anchor=rollout; set algorithm.anchor=proximal"
        )


def _check_sizes(cfg: RLConfig) -> None:
    buffer, max_tokens = cfg.algorithm.shaping.overlong_buffer, cfg.rollout.max_tokens
    if buffer > max_tokens:
        raise UserError(
            f"algorithm.shaping.overlong_buffer must be at most rollout.max_tokens={max_tokens}, "
            f"got {buffer}; a fifth of it is usual"
        )
    samples = cfg.rollout.prompts_per_step * cfg.rollout.group_size
    adaptive = cfg.algorithm.kl.adaptive
    if adaptive.enabled and adaptive.horizon < samples:
        raise UserError(
            f"algorithm.kl.adaptive.horizon must be at least the {samples} responses of one step, "
            f"got {adaptive.horizon}: the coefficient would overshoot; the paper uses 10000"
        )
    if cfg.algorithm.mini_batches > cfg.rollout.prompts_per_step:
        raise UserError(
            "algorithm.mini_batches must be at most rollout.prompts_per_step="
            f"{cfg.rollout.prompts_per_step}, got {cfg.algorithm.mini_batches}: a group is never "
            "split"
        )
    if cfg.trainer.max_tokens_per_micro_batch <= cfg.rollout.max_tokens:
        raise UserError(
            "trainer.max_tokens_per_micro_batch must hold a prompt and a response of "
            f"rollout.max_tokens={cfg.rollout.max_tokens} tokens, got "
            f"{cfg.trainer.max_tokens_per_micro_batch}"
        )
