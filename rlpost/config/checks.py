"""Rules between fields; each dataclass checks its own.

Owns cross-field rules. Invariant: an impossible combination fails here, at compose, with
field, value, rule and way out, before anything is read or written.
"""

from rlpost.algorithms.advantages import check_group_size
from rlpost.config.schema import RLConfig
from rlpost.errors import UserError


def check_rl(cfg: RLConfig) -> None:
    """Refuse settings of ``rlpost rl`` that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    cfg.data.check()
    cfg.rollout.check()
    check_group_size(cfg.rollout.group_size, path="rollout.group_size")
    cfg.generator.validate()
    cfg.algorithm.advantage.check()
    cfg.algorithm.reduction.check()
    cfg.algorithm.kl.check()
    cfg.loss.check()
    cfg.trainer.check()
    cfg.weights.check()
    cfg.evaluation.check()
    cfg.tracking.check()
    cfg.cluster.check()
    if cfg.trainer.max_tokens_per_micro_batch <= cfg.rollout.max_tokens:
        raise UserError(
            "trainer.max_tokens_per_micro_batch must hold a prompt and a response of "
            f"rollout.max_tokens={cfg.rollout.max_tokens} tokens, got "
            f"{cfg.trainer.max_tokens_per_micro_batch}"
        )
    if cfg.run.name is not None and (not cfg.run.name or "/" in cfg.run.name):
        raise UserError(
            f"run.name must be a plain directory name, got {cfg.run.name!r}; run.dir says where"
        )
