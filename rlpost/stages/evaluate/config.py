"""The options of ``rlpost evaluate``, and the rules between them.

Owns what can be asked for. Refuses to own what files and machine cannot do (plan.py). There are no
options of training: nothing is trained here.
"""

from dataclasses import dataclass, field
from typing import Any

from rlpost.algorithms.selection import SelectionConfig
from rlpost.bounds import check_config, number, numbers, option
from rlpost.cluster.verifiers import JudgedClusterConfig
from rlpost.config.schema import (
    MAX_TEMPERATURE,
    RunConfig,
    WholeModelConfig,
)
from rlpost.control.failures import FailureConfig
from rlpost.data import template_variables
from rlpost.data.bad_rows import OnBadRow, OnLongPrompt
from rlpost.data.dataset import DataConfig
from rlpost.errors import UserError
from rlpost.evaluation.suites.catalog import SUITES, find_suite
from rlpost.rollout.endpoint_settings import EndpointConfig
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.stages.sampling.suite_settings import check_answers
from rlpost.tracking.config import TrackingConfig
from rlpost.types import SamplingConfig
from rlpost.verifiers.base import VerifierConfig
from rlpost.verifiers.combine import Combination, RewardsConfig, Rule
from rlpost.verifiers.configured import configured

_ADAPTER_HELP = "adapter on that model: a directory, a run, or the name of one; null: none"


@dataclass(kw_only=True)
class EvaluatedModelConfig(WholeModelConfig):
    """The model that answers."""

    adapter: str | None = option(None, help=_ADAPTER_HELP)


@dataclass(kw_only=True)
class BaselineConfig:
    """A second model, for a paired comparison on the same items and seeds."""

    path: str | None = option(
        None, help="model to compare with: embedded model, local directory or hub id; null: none"
    )
    adapter: str | None = option(None, help=_ADAPTER_HELP)

    def check(self, path: str) -> None:
        """Raises UserError: nothing says what the adapter is on."""
        if self.adapter is not None and self.path is None:
            raise UserError(
                f"{path}.adapter={self.adapter} needs the model that it is on; give {path}.path"
            )


@dataclass(kw_only=True)
class HeldoutDataConfig:
    """A data source of your own to evaluate on, beside the suites or instead of them."""

    heldout: str | None = option(None, help="a file, a hub id or a generated source; null: none")
    heldout_size: int = number(
        1000, at_least=1, at_most=10**9, help="at most this many rows of it, the first ones"
    )
    prompt_column: str = option("prompt", help="column of the prompt")
    system_prompt: str | None = option(
        None, help="system message before each prompt, of the suites too; null: none"
    )
    chat_template_kwargs: dict[str, Any] = option({}, help=template_variables.HELP)
    on_bad_row: OnBadRow = option(OnBadRow.error, help="what to do with a row that cannot be used")
    on_long_prompt: OnLongPrompt = option(
        OnLongPrompt.error, help="what to do with a prompt that is too long"
    )

    def of(self, source: str, *, size: int) -> DataConfig:
        """Return the settings of reading at most ``size`` held-out rows of ``source``."""
        return DataConfig(
            heldout=source,
            heldout_size=size,
            prompt_column=self.prompt_column,
            system_prompt=self.system_prompt,
            on_bad_row=self.on_bad_row,
            on_long_prompt=self.on_long_prompt,
        )


@dataclass(kw_only=True)
class DifficultyConfig:
    """Which items of data.heldout are kept as a data set of prompts, by how many answer right."""

    min_pass_rate: float | None = number(
        None,
        at_least=0,
        at_most=1,
        help="keep items of which at least this share of the responses is right; null: all",
    )
    max_pass_rate: float | None = number(
        None, at_least=0, at_most=1, help="keep items of which at most this share is; null: all"
    )

    @property
    def keeps_nothing(self) -> bool:
        """Whether no data set is asked for."""
        return self == DifficultyConfig()

    def holds(self, rate: float) -> bool:
        """Whether an item of this share of right responses is kept."""
        low = 0.0 if self.min_pass_rate is None else self.min_pass_rate
        high = 1.0 if self.max_pass_rate is None else self.max_pass_rate
        return low <= rate <= high

    def check(self, path: str) -> None:
        """Raises UserError: no item can be kept."""
        if None not in (self.min_pass_rate, self.max_pass_rate) and not self._is_band():
            raise UserError(
                f"{path}.min_pass_rate={self.min_pass_rate} is above {path}.max_pass_rate="
                f"{self.max_pass_rate}, so no item is kept; give a band such as 0.1 to 0.9"
            )

    def _is_band(self) -> bool:
        assert self.min_pass_rate is not None and self.max_pass_rate is not None
        return self.min_pass_rate <= self.max_pass_rate


@dataclass(kw_only=True)
class EvaluateConfig:
    """Everything ``rlpost evaluate`` can be told."""

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = number(0, at_least=0, at_most=2**31 - 1, help="of sampling and of the bootstrap")
    resume: str = option(
        "auto", help="auto: go on after the answers that are there; never: refuse if there are any"
    )
    model: EvaluatedModelConfig = field(default_factory=EvaluatedModelConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    suites: list[str] = option(
        [], help="suites to evaluate on; empty: all of them, unless data.heldout is set"
    )
    data: HeldoutDataConfig = field(default_factory=HeldoutDataConfig)
    verifier: Any = option(None, help="kind of verifier of data.heldout; suites have their own")
    verifiers: dict[str, Any] = option(
        {}, help="more verifiers by names of your choice: +verifier@verifiers.NAME=KIND"
    )
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    samples: int = number(1, at_least=1, at_most=10**4, help="responses per item")
    temperature: float = number(
        0.0, at_least=0, at_most=MAX_TEMPERATURE, help="of sampling; 0: greedy"
    )
    max_tokens: int = number(512, at_least=1, at_most=10**7, help="longest response, in tokens")
    k: list[int] = numbers(
        at_least=1, at_most=10**4, help="numbers of responses of pass@k and maj@k; empty: none"
    )
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    difficulty: DifficultyConfig = field(default_factory=DifficultyConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    failures: FailureConfig = field(default_factory=FailureConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: JudgedClusterConfig = field(default_factory=JudgedClusterConfig)

    @property
    def answered_by(self) -> str:
        """What the model is called that answers."""
        return self.endpoint.model or named(self.model.path, self.model.adapter)

    @property
    def compared_with(self) -> str | None:
        """What the baseline is called; None: there is none."""
        given = self.baseline
        return None if given.path is None else named(given.path, given.adapter)

    @property
    def chosen_suites(self) -> list[str]:
        """The suites that are evaluated on."""
        return list(self.suites) or ([] if self.data.heldout else list(SUITES))

    @property
    def all_verifiers(self) -> dict[str, VerifierConfig]:
        """Every verifier of ``data.heldout``, by the name of its verdicts; see ``configured``."""
        if self.verifier is None and not self.verifiers:
            return {}
        return configured(self.verifier, self.verifiers)

    @property
    def combination(self) -> Combination:
        """How the verifiers of ``data.heldout`` make a reward."""
        found = self.all_verifiers
        weights = {name: verifier.weight for name, verifier in found.items()}
        return Combination(weights=weights, rewards=self.rewards).measuring(found)

    @property
    def sampling(self) -> SamplingConfig:
        return SamplingConfig(max_tokens=self.max_tokens, temperature=self.temperature)


def named(path: str, adapter: str | None) -> str:
    """Return what a model with an adapter is called."""
    return path if adapter is None else f"{path} with {adapter}"


def check_evaluate(cfg: EvaluateConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_config(cfg)
    for index, name in enumerate(cfg.suites):
        find_suite(name, field=f"suites[{index}]")
    if len(set(cfg.suites)) < len(cfg.suites):
        raise UserError(f"suites must name each suite once, got {cfg.suites}")
    if cfg.resume not in ("auto", "never"):
        raise UserError(f"resume must be auto or never, got {cfg.resume!a:.100}")
    _check_sampling(cfg)
    _check_judges(cfg)
    _check_traces(cfg)
    _check_difficulty(cfg)
    _check_endpoint(cfg)
    _check_idle_options(cfg)


def _check_endpoint(cfg: EvaluateConfig) -> None:
    """Refuse options of local models where an endpoint answers."""
    if cfg.endpoint.url is None:
        return
    why = (
        "has no effect with endpoint.url, where the model answers elsewhere; leave one of them out"
    )
    if cfg.model != EvaluatedModelConfig():
        raise UserError(f"model.path={named(cfg.model.path, cfg.model.adapter)} {why}")
    if cfg.baseline.path is not None:
        raise UserError(f"baseline.path={cfg.baseline.path} {why}")
    if cfg.generator != GeneratorConfig():
        raise UserError(f"generator.* {why}")
    if cfg.data.chat_template_kwargs:
        raise UserError(f"data.chat_template_kwargs {why}")
    if cfg.data.on_long_prompt is not OnLongPrompt.error:
        raise UserError(f"data.on_long_prompt={cfg.data.on_long_prompt.value} {why}")


def _check_sampling(cfg: EvaluateConfig) -> None:
    check_answers(cfg.samples, cfg.temperature, prefix="")
    for index, k in enumerate(cfg.k):
        if k > cfg.samples:
            raise UserError(
                f"k[{index}] must be at most samples={cfg.samples}, got {k}: so many responses are "
                f"not there; set samples={k} or more"
            )
    if len(set(cfg.k)) < len(cfg.k):
        raise UserError(f"k must hold each number once, got {cfg.k}")


def _check_judges(cfg: EvaluateConfig) -> None:
    found = cfg.all_verifiers
    if cfg.data.heldout and not found:
        raise UserError(
            f"data.heldout={cfg.data.heldout} needs a verifier that judges the responses; set "
            "verifier=KIND, for example verifier=math"
        )
    if not cfg.data.heldout and found:
        raise UserError(
            "verifier.* judges the rows of data.heldout, which is not set, and each suite has its "
            "own verifier; set data.heldout, or leave the verifier out"
        )
    if cfg.rewards != RewardsConfig() and len(found) < 2:
        raise UserError(
            "rewards.* combines several verifiers of data.heldout, and there are "
            f"{len(found)}; leave it out, or add one with +verifier@verifiers.NAME=KIND"
        )
    gates = cfg.rewards.gates
    if (cfg.rewards.rule is Rule.gate) != bool(gates) or not set(gates) <= set(found):
        raise UserError(
            "rewards.gates must name verifiers that must pass with rewards.rule=gate, and be empty "
            f"with other rules, got {gates} with rewards.rule={cfg.rewards.rule.value}; the "
            f"verifiers here are {', '.join(found) or 'none'}"
        )


def _check_traces(cfg: EvaluateConfig) -> None:
    """Refuse to keep answers as a data set that nobody should learn from."""
    if cfg.selection.keeps_everything:
        return
    if cfg.suites or not cfg.data.heldout:
        raise UserError(
            "selection.* keeps answers to data.heldout as a data set, and answers to suites would "
            "teach what is measured with; set data.heldout to the prompts, and leave suites out"
        )
    if cfg.baseline.path is not None:
        raise UserError(
            "selection.* keeps the answers of one model as a data set, and baseline.path adds a "
            "second; leave baseline.path out"
        )


def _check_difficulty(cfg: EvaluateConfig) -> None:
    """Refuse to keep items whose difficulty is not measured, or that nobody should learn from."""
    if cfg.difficulty.keeps_nothing:
        return
    if cfg.suites or not cfg.data.heldout:
        raise UserError(
            "difficulty.* keeps items of data.heldout as a data set, and those of suites would "
            "teach what is measured with; set data.heldout to the prompts, and leave suites out"
        )
    if cfg.baseline.path is not None:
        raise UserError(
            "difficulty.* keeps what is hard for one model, and baseline.path adds a second; leave "
            "baseline.path out"
        )
    if cfg.samples < 2:
        raise UserError(
            "difficulty.* needs several responses per item, got samples=1, whose share of right "
            "ones is 0 or 1; set for example samples=8 temperature=1"
        )


def _check_idle_options(cfg: EvaluateConfig) -> None:
    """Refuse options of something that an evaluation does not have."""
    if cfg.data.heldout is None:
        plain, given = HeldoutDataConfig(), cfg.data
        for name in ("heldout_size", "prompt_column", "on_bad_row"):
            if getattr(given, name) != getattr(plain, name):
                raise UserError(f"data.{name} has no effect without data.heldout; leave it out")
    if cfg.cluster.offload_idle:
        raise UserError(
            "cluster.offload_idle=true has no effect here: the models are loaded one after the "
            "other; leave it out"
        )
    plain_failures = FailureConfig()
    for name in _OF_TRAINING:
        if getattr(cfg.failures, name) != getattr(plain_failures, name):
            raise UserError(f"failures.{name} is about training, of which there is none here")


_OF_TRAINING = ("trainer_restarts", "idle_steps")
