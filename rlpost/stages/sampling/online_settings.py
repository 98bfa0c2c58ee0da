"""The options of stages that can learn from rows or from the policy's own samples.

Owns what only ``data.online=true`` has, and that an option of the mode that a run is not in is
refused. Refuses to own what a stage makes of the samples.
"""

from dataclasses import dataclass, field, fields
from typing import Any

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
class OnlineDataConfig(SupervisedDataConfig):
    """Where rows come from, or prompts that the policy answers."""

    online: bool = option(
        False, help="rows are prompts, whose answers are sampled from the policy in each step"
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
class SampledOptions(JudgedOptions):
    """What is sampled, how far it may lag and who judges it."""

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


def check_online_data(cfg: Any, *, own: tuple[str, ...] = ()) -> None:
    """Refuse settings of rows and suites where rows are prompts.

    Args:
        cfg: options of the stage, each part checked by itself.
        own: what a stage's ``data`` has beside ``OnlineDataConfig`` that concerns rows.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    _refuse_changed(cfg.data, type(cfg.data)(), (*_OF_ROWS, *own), at="data", why=_IS_PROMPTS)
    _refuse_changed(cfg.evaluation, SuitesConfig(), _OF_SUITES, at="evaluation", why=_HELD_OUT)
    check_config(cfg.data.prompts(), "data")


def refuse_masked_overage(cfg: Any, *, why: str) -> None:
    """Raises UserError: tokens that are too old are left out one by one; ``why`` that is wrong."""
    if cfg.rl.on_overage is OnOverage.mask:
        raise UserError(f"rl.on_overage=mask leaves single tokens out, and {why}; use wait or drop")


def check_samples(cfg: Any) -> None:
    """Refuse settings of samples, their judges and their age that contradict each other.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_overage(cfg.rl)
    if cfg.all_verifiers or cfg.reward_models:
        check_judges(cfg)
    check_deadlines(cfg)


def check_offline(cfg: Any, *, options: type) -> None:
    """Refuse options that only ``data.online=true`` reads: ``options`` and those of prompts.

    Raises:
        UserError: names the field, its value and the way out.
    """
    why = (
        f"has no effect without {ONLINE}: nothing is sampled to learn from; set it, or leave it out"
    )
    _refuse_changed(cfg.data, type(cfg.data)(), _OF_PROMPTS, at="data", why=why)
    _refuse_changed(cfg.failures, FailureConfig(), _of_learning(), at="failures", why=why)
    for each in fields(options):
        if getattr(cfg, each.name) != getattr(options(), each.name):
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
            raise UserError(f"{at}.{name}{_shown(value)} {why}")


def _shown(value: Any) -> str:
    """Return a value as it is given: of options by name there is none but theirs."""
    return ".*" if isinstance(value, dict) else f"={getattr(value, 'value', value)}"
