"""Rules between the judges of a run, how they are combined and what learns from their rewards.

Owns which combinations make sense. Refuses to own the arithmetic (verifiers/combine.py).
"""

from rlpost.algorithms.shaping import ShapingConfig
from rlpost.config.schema import JudgedOptions, RLConfig
from rlpost.errors import UserError
from rlpost.verifiers.combine import Combination, RewardsConfig, Rule


def check_judges(cfg: JudgedOptions) -> None:
    """Raises UserError: judges that cannot be told apart, or combined, or learned from."""
    verifiers = cfg.all_verifiers
    for name in verifiers.keys() & cfg.reward_models.keys():
        raise UserError(f"reward_models.{name} has the name of the verifier; choose another")
    combination = cfg.combination
    if not any(combination.weights.values()):
        raise UserError(
            f"{_zero_weights(cfg)} leaves nothing to learn from; give it a weight, or add a reward "
            "model: +reward_models.NAME.path=PATH"
        )
    if cfg.rewards.rule is not Rule.gate and cfg.rewards != RewardsConfig(rule=cfg.rewards.rule):
        raise UserError(
            "rewards.gates, rewards.threshold and rewards.floor have no effect with rewards.rule="
            f"{cfg.rewards.rule.value}; set rewards.rule=gate, or leave them out"
        )
    match cfg.rewards.rule:
        case Rule.product:
            _check_product(cfg, combination)
        case Rule.gate:
            _check_gates(cfg, combination)
        case Rule.first:
            _check_first(cfg, combination)


def check_components(cfg: RLConfig) -> None:
    """Raises UserError: an estimator that reads rewards one by one has nothing to tell apart."""
    advantage, combination = cfg.algorithm.advantage, cfg.combination
    if not advantage.needs_components:
        return
    if len(combination.deciding) < 2:
        raise UserError(
            f"algorithm/advantage={advantage.kind} normalises several rewards one "
            "by one, and there is one; name two functions, verifier=function "
            "'verifier.path=[rewards.py:f,rewards.py:g]', add a reward model or a verifier, or use "
            "algorithm=grpo"
        )
    if cfg.algorithm.shaping != ShapingConfig():
        raise UserError(
            f"algorithm/advantage={advantage.kind} reads the rewards one by one, "
            "and algorithm.shaping changes their sum; leave the shaping out, or use grpo"
        )
    if cfg.rewards.rule is not Rule.sum:
        raise UserError(
            f"algorithm/advantage={advantage.kind} reads the rewards one by one and adds them up, "
            f"so rewards.rule={cfg.rewards.rule.value} cannot be used with it; leave the rule "
            "out, or use algorithm=grpo"
        )


def _check_product(cfg: JudgedOptions, combination: Combination) -> None:
    _require_several(combination, Rule.product)
    for name in cfg.reward_models:
        raise UserError(
            f"rewards.rule=product multiplies rewards of 0 or more, and the score of "
            f"reward_models.{name} can be negative; use rewards.rule=gate with the verifiers as "
            "rewards.gates, or rewards.rule=sum"
        )
    for name, weight in combination.weights.items():
        if weight not in (0, 1):
            raise UserError(
                f"the weight of {name} must be 1 with rewards.rule=product, or 0 to only measure, "
                f"got {weight:g}: a factor would scale the whole product; leave it out"
            )


def _check_gates(cfg: JudgedOptions, combination: Combination) -> None:
    rewards, judges = cfg.rewards, ", ".join(combination.weights)
    if not rewards.gates or len(set(rewards.gates)) < len(rewards.gates):
        raise UserError(
            "rewards.gates must name the judges that must pass with rewards.rule=gate, each once, "
            f"got {rewards.gates}; the judges here are {judges}"
        )
    for name in rewards.gates:
        if name not in combination.weights:
            raise UserError(f"rewards.gates must be among the judges {judges}, got {name!r:.100}")
        if combination.weights[name] != 1:
            raise UserError(
                f"the weight of {name} must be 1, got {combination.weights[name]:g}: as one of "
                "rewards.gates it is no part of the sum; leave the weight out"
            )
        if name in cfg.reward_models and cfg.reward_models[name].normalize:
            raise UserError(
                f"reward_models.{name}.normalize=true moves its scores from step to step, so that "
                "it cannot be one of rewards.gates; leave the normalisation out"
            )
    if not combination.deciding:
        raise UserError(
            f"rewards.gates={rewards.gates} leaves no judge with a weight to learn from; add one, "
            "or use rewards.rule=product"
        )


def _check_first(cfg: JudgedOptions, combination: Combination) -> None:
    _require_several(combination, Rule.first)
    *before, _ = (name for name, weight in combination.weights.items() if weight)
    verifiers = cfg.all_verifiers
    for name in before:
        if name in cfg.reward_models:
            raise UserError(
                f"reward_models.{name} never abstains, so that with rewards.rule=first no judge "
                "behind it is ever needed; leave the others out"
            )
        verifier = verifiers[name]
        if verifier.kind != "function" and not verifier.abstains:
            raise UserError(
                f"{verifier} never abstains, so that with rewards.rule=first no judge behind it "
                f"is ever needed; set {verifier.place}.abstains=true to have it abstain on rows "
                "that it cannot judge"
            )


def _require_several(combination: Combination, rule: Rule) -> None:
    if len(combination.deciding) < 2:
        raise UserError(
            f"rewards.rule={rule.value} combines several judges with a weight, and there is one, "
            f"{', '.join(combination.deciding)}; leave the rule out, or add a verifier with "
            "+verifier@verifiers.NAME=KIND"
        )


def _zero_weights(cfg: JudgedOptions) -> str:
    if cfg.verifiers:
        return "the weight 0 of every verifier"
    if cfg.verifier.weight == 0:
        return "verifier.weight=0"
    return f"verifier.weights={cfg.verifier.weights}"
