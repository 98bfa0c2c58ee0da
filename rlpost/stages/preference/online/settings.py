"""The options of online preference learning, and the rules of both modes that concern them.

Owns what only ``data.online=true`` has. Refuses to own what it shares with RL (config/schema.py)
and the losses. Invariant: an option of the mode that a run is not in is refused.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from rlpost.algorithms.preference import JudgedInputs
from rlpost.bounds import check_config, number, option
from rlpost.config.checks import check_overage
from rlpost.config.judges import check_judges
from rlpost.config.schema import JudgedOptions, ResponsesConfig
from rlpost.control.failures import FailureConfig, GenerationFailureConfig
from rlpost.control.staleness import OnOverage, StalenessConfig
from rlpost.data.bad_rows import OnLongPrompt
from rlpost.data.dataset import DataConfig
from rlpost.data.supervised import SupervisedDataConfig
from rlpost.errors import UserError
from rlpost.stages.sampling.generator_settings import check_deadlines
from rlpost.stages.sampling.suite_settings import SuitesConfig
from rlpost.verifiers.combine import RewardsConfig

ONLINE = "data.online=true"
_OF_PROMPTS = ("prompt_column", "system_prompt", "max_prompt_tokens", "on_long_prompt")
_OF_ROWS = ("sources", "format", "columns", "heldout_fraction", "max_tokens", "on_long", "workers")
_OF_SUITES = ("suites", "suite_every", "suite_size", "max_tokens")


@dataclass(kw_only=True)
class PreferenceDataConfig(SupervisedDataConfig):
    """Where pairs and judged completions come from, or prompts whose answers are paired."""

    online: bool = option(
        False, help="rows are prompts: their answers are sampled, judged and paired in each step"
    )
    prompt_column: str = option("prompt", help="column of the prompt; online")
    system_prompt: str | None = option(
        None, help="system message before each prompt; null: none; online"
    )
    max_prompt_tokens: int | None = number(
        None,
        at_least=1,
        at_most=10**7,
        help="longest prompt; null: what the model's context leaves; online",
    )
    on_long_prompt: OnLongPrompt = option(
        OnLongPrompt.error, help="what to do with a longer prompt; online"
    )

    def prompts(self) -> DataConfig:
        """Return the settings of reading prompts."""
        assert self.train is not None
        return DataConfig(
            train=self.train,
            heldout=self.heldout,
            heldout_size=self.heldout_size,
            size=self.size,
            prompt_column=self.prompt_column,
            system_prompt=self.system_prompt,
            chat_template_kwargs=self.chat_template_kwargs,
            on_bad_row=self.on_bad_row,
            shuffle=self.shuffle,
            max_prompt_tokens=self.max_prompt_tokens,
            on_long_prompt=self.on_long_prompt,
        )


@dataclass(kw_only=True)
class PairingConfig:
    """How groups without a pair are replaced."""

    max_rounds: int = number(
        3,
        at_least=1,
        at_most=1000,
        help="a step draws at most so many times its prompts to find a pair for each",
    )


@dataclass(kw_only=True)
class OnlineOptions(JudgedOptions):
    """What is sampled, how far it may lag and who judges it."""

    pairing: PairingConfig = field(default_factory=PairingConfig)
    rollout: ResponsesConfig = field(default_factory=ResponsesConfig)
    rl: StalenessConfig = field(default_factory=StalenessConfig)
    verifier: Any = option(None, help="kind of verifier of sampled responses; online")
    verifiers: dict[str, Any] = option(
        {}, help="more verifiers by names of your choice: +verifier@verifiers.NAME=KIND"
    )
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    reward_models: dict[str, Any] = option(
        {}, help="reward models by names of your choice: +reward_models.NAME.path=PATH"
    )


def check_online(cfg: Any) -> None:
    """Refuse settings of ``data.online=true`` that cannot work.

    Args:
        cfg: a ``PreferenceConfig``, each part checked by itself.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    _refuse_changed(cfg.data, SupervisedDataConfig(), _OF_ROWS, at="data", why=_IS_PROMPTS)
    _refuse_changed(cfg.evaluation, SuitesConfig(), _OF_SUITES, at="evaluation", why=_HELD_OUT)
    check_config(cfg.data.prompts(), "data")
    if cfg.loss.inputs is JudgedInputs:
        raise UserError(
            f"loss={cfg.loss.kind} learns from single judged completions, and {ONLINE} makes "
            "pairs; use loss=dpo or another loss of pairs"
        )
    if cfg.rollout.group_size < 2:
        raise UserError(
            "rollout.group_size must be at least 2 to find a better and a worse response, got "
            f"{cfg.rollout.group_size}; 8 is usual"
        )
    if cfg.rl.on_overage is OnOverage.mask:
        raise UserError(
            "rl.on_overage=mask leaves single tokens out, and a preference compares whole "
            "responses; use wait or drop"
        )
    if cfg.failures.idle_steps != FailureConfig().idle_steps:
        raise UserError(
            f"failures.idle_steps={cfg.failures.idle_steps} has no effect with {ONLINE}, where a "
            "step without any pair ends the run; set pairing.max_rounds, or leave it out"
        )
    if not cfg.all_verifiers and not cfg.reward_models:
        raise UserError(
            f"{ONLINE} needs somebody who judges responses: a verifier with verifier=KIND, for "
            "example verifier=math, or a reward model with +reward_models.NAME.path=PATH"
        )
    check_overage(cfg.rl)
    check_judges(cfg)
    check_deadlines(cfg)


def check_offline(cfg: Any) -> None:
    """Refuse options that only ``data.online=true`` reads.

    Raises:
        UserError: names the field, its value and the way out.
    """
    why = (
        f"has no effect without {ONLINE}: nothing is sampled to learn from; set it, or leave it out"
    )
    plain = PreferenceDataConfig()
    _refuse_changed(cfg.data, plain, _OF_PROMPTS, at="data", why=why)
    _refuse_changed(cfg.failures, FailureConfig(), _of_learning(), at="failures", why=why)
    for each in fields(OnlineOptions):
        if getattr(cfg, each.name) != getattr(OnlineOptions(), each.name):
            raise UserError(f"{each.name}.* {why}")


_IS_PROMPTS = f"has no effect with {ONLINE}, where rows are prompts; leave it out"
_HELD_OUT = (
    f"has no effect with {ONLINE}, where held-out prompts are answered; name a suite with "
    "data.heldout=suite:NAME"
)


def _of_learning() -> list[str]:
    known = {each.name for each in fields(GenerationFailureConfig)}
    return [each.name for each in fields(FailureConfig) if each.name not in known]


def _refuse_changed(given: Any, plain: Any, names: Any, *, at: str, why: str) -> None:
    for name in names:
        if (value := getattr(given, name)) != getattr(plain, name):
            raise UserError(f"{at}.{name}={getattr(value, 'value', value)} {why}")
