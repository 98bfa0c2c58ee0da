"""The shape of a stage's configuration: one tree of dataclasses.

Owns the composition; every dataclass of a room lies above what it configures. Refuses to
own choices (YAML), names (store.py) and cross-field rules (checks.py). Invariant: after
convert.py turned the tree into these objects nobody sees an OmegaConf object again.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from rlpost.algorithms.critic_loss import CriticLossConfig
from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.reduce import ReductionConfig
from rlpost.algorithms.selection import SelectionConfig
from rlpost.algorithms.shaping import DynamicSamplingConfig, ShapingConfig
from rlpost.bounds import number, numbers, option
from rlpost.checkpoint.store import CheckpointConfig
from rlpost.cluster.verifiers import JudgedClusterConfig
from rlpost.control.early_stopping import EarlyStoppingConfig
from rlpost.control.failures import FailureConfig
from rlpost.control.staleness import StalenessConfig
from rlpost.data.dataset import DataConfig
from rlpost.errors import UserError
from rlpost.models.embedded import NAME as EMBEDDED_MODEL
from rlpost.rollout.collector import OnVerifierError
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.rollout.interruption import InterruptionConfig
from rlpost.stages.results import ExportConfig
from rlpost.tracking.config import TrackingConfig
from rlpost.training.critic_settings import CriticConfig
from rlpost.training.settings import ReferenceRanksConfig, TrainerConfig
from rlpost.types import SamplingConfig
from rlpost.verifiers.base import VerifierConfig
from rlpost.verifiers.combine import Combination, RewardsConfig
from rlpost.verifiers.configured import configured
from rlpost.weights.publisher import WeightsConfig

MAX_STOPS = 16  # strings, or tokens
MAX_STOP_CHARACTERS = 100  # every sampled token is compared with the end of the text

MAX_NAME_BYTES = 200  # file systems allow 255, and scratch files add to a name

# vLLM samples at 0.01 whatever lies between 0 and that, and refuses what lies above 2.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2.0


@dataclass(kw_only=True)
class RunConfig:
    """Where a run lives: ``<dir>/<name>``."""

    name: str | None = option(
        None, help="directory of the run below run.dir; null: the name of the stage"
    )
    dir: str = option("runs", help="where runs live")

    def check(self, path: str) -> None:
        """Raises UserError: the name is no safe name of a directory, or there is no place."""
        if self.name is not None and not is_safe_name(self.name):
            raise UserError(
                f"{path}.name must be a plain directory name, got {self.name!a:.200}: no / or \\, "
                "no dot, dash or space at its beginning, no space at its end, no control "
                f"characters, at most {MAX_NAME_BYTES} bytes; {path}.dir says where"
            )
        if not self.dir.strip() or not self.dir.isprintable():
            raise UserError(
                f"{path}.dir must name a directory, got {self.dir!a:.200}; the default is runs"
            )


def is_safe_name(name: str) -> bool:
    """Whether a directory of that name lies where it seems to, on every file system."""
    size_bytes = len(name.encode("utf-8", "surrogatepass"))
    plain = name.isprintable() and "/" not in name and "\\" not in name
    return (
        plain and 0 < size_bytes <= MAX_NAME_BYTES and name.strip() == name and name[0] not in ".-"
    )


@dataclass(kw_only=True)
class WholeModelConfig:
    """A model that is used as it is."""

    path: str = option(EMBEDDED_MODEL, help="embedded model, local directory or hub id")


@dataclass(kw_only=True)
class ModelConfig(WholeModelConfig):
    """The policy to start from."""

    path: str = option(
        EMBEDDED_MODEL, help="model to start from: embedded model, local directory or hub id"
    )
    adapter: str | None = option(
        None,
        help="adapter directory on that model, to train on; with adapter=KIND it is merged first",
    )

    def check(self, path: str) -> None:
        """Raises UserError: the adapter is blank."""
        if self.adapter is not None and not self.adapter.strip():
            raise UserError(
                f"{path}.adapter must name a directory, got {self.adapter!r}; null starts from the "
                "model alone"
            )


@dataclass(kw_only=True)
class PromptsPerStep:
    """How much is sampled for one optimizer step."""

    prompts_per_step: int = number(16, at_least=1, at_most=10**6, help="prompts of one step")


@dataclass(kw_only=True)
class ResponsesConfig:
    """How a prompt is answered."""

    group_size: int = number(8, at_least=1, at_most=10**4, help="responses per prompt")
    max_tokens: int = number(256, at_least=1, at_most=10**7, help="longest response, in tokens")
    temperature: float = number(
        1.0,
        at_least=MIN_TEMPERATURE,
        at_most=MAX_TEMPERATURE,
        hint="greedy responses of a group are equal and teach nothing; 1.0 is usual",
        help="of sampling; the training logits are divided by it, too",
    )
    stop: list[str] = option([], help="strings that end a response and belong to it")
    stop_token_ids: list[int] = numbers(
        at_least=0,
        at_most=10**7,
        help="tokens that end a response, beside the model's end-of-sequence",
    )
    interruption: InterruptionConfig = field(default_factory=InterruptionConfig)
    on_verifier_error: OnVerifierError = option(
        OnVerifierError.sample,
        help="what a failed verdict costs: the one sample, or its whole group",
    )

    @property
    def sampling(self) -> SamplingConfig:
        return SamplingConfig(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
        )

    def check(self, path: str) -> None:
        """Raises UserError: an interruption comes too late, or a stop cannot be one."""
        after = self.interruption.after
        if after is not None and after >= self.max_tokens:
            raise UserError(
                f"{path}.interruption.after must be below {path}.max_tokens={self.max_tokens}, got "
                f"{after}: a response that has all its tokens cannot go on"
            )
        self._check_stops(path)

    def _check_stops(self, path: str) -> None:
        for name, stops in (("stop", self.stop), ("stop_token_ids", self.stop_token_ids)):
            if len(stops) > MAX_STOPS or len(set(stops)) < len(stops):
                raise UserError(
                    f"{path}.{name} must be a list of at most {MAX_STOPS} different entries, got "
                    f"{len(stops)}: {stops!r:.200}"
                )
        for text in self.stop:
            if not 0 < len(text) <= MAX_STOP_CHARACTERS:
                raise UserError(
                    f"{path}.stop must hold strings of 1 to {MAX_STOP_CHARACTERS} characters, got "
                    f"{text!r:.200}; for example {path}.stop=['</answer>']"
                )


@dataclass(kw_only=True)
class RolloutConfig(ResponsesConfig, PromptsPerStep):
    """What is sampled for one optimizer step."""


class Anchor(Enum):
    """Which policy the ratio is taken against.

    ``rollout``: the sampler, whose log-probs came with the responses. ``proximal``: the
    policy before the step's first update, by a forward pass of the trainer (decoupled PPO);
    corrections then weigh proximal against sampler.
    """

    rollout = "rollout"
    proximal = "proximal"


@dataclass(kw_only=True)
class AlgorithmConfig:
    """How rewards become gradients, apart from the per-token loss."""

    advantage: Any = option(MISSING, help="estimator of advantages")
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    dynamic_sampling: DynamicSamplingConfig = field(default_factory=DynamicSamplingConfig)
    reduction: ReductionConfig = field(default_factory=ReductionConfig)
    kl: KLConfig = field(default_factory=KLConfig)
    entropy_coefficient: float = number(
        0.0,
        above=-1,
        below=1,
        hint="0.001 is a large bonus",
        help="weight of the policy's entropy; above 0 rewards exploration",
    )
    anchor: Anchor = option(
        Anchor.rollout,
        help="policy of the ratio: the sampler's, or that before the step's first update",
    )
    corrections: dict[str, Any] = option(
        {}, help="corrections for the mismatch of sampler and trainer; a list of these"
    )
    epochs: int = number(1, at_least=1, at_most=1000, help="passes over the responses of a step")
    mini_batches: int = number(1, at_least=1, at_most=10**6, help="optimizer steps per pass")

    @property
    def updates_per_step(self) -> int:
        return self.epochs * self.mini_batches


@dataclass(kw_only=True)
class CriticRoleConfig(CriticConfig):
    """The value model: whether there is one, how it trains and what it minimises."""

    enabled: bool = option(False, help="train a critic; algorithm/advantage=gae needs it")
    loss: CriticLossConfig = field(default_factory=CriticLossConfig)


@dataclass(kw_only=True)
class EvaluationConfig:
    """Rewards on held-out prompts: before, every so many steps, and after."""

    every: int = number(
        5,
        at_least=0,
        at_most=10**8,
        hint="0 evaluates only before and after",
        help="steps between evaluations; 0: only before and after",
    )
    samples: int = number(1, at_least=1, at_most=10**4, help="responses per held-out prompt")
    temperature: float = number(
        1.0, at_least=0, at_most=MAX_TEMPERATURE, help="of sampling; 0: greedy"
    )

    def check(self, path: str) -> None:
        """Raises UserError: a temperature that the sampler would not keep to."""
        greedy = self.temperature == 0
        if not (greedy or MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE):
            raise UserError(
                f"{path}.temperature must be 0 (greedy) or in [{MIN_TEMPERATURE:g}, "
                f"{MAX_TEMPERATURE:g}], got {self.temperature}"
            )


class JudgedOptions:
    """What is derived from the options of who judges, in every stage that has them."""

    verifier: Any
    verifiers: dict[str, Any]
    rewards: RewardsConfig
    reward_models: dict[str, Any]

    @property
    def all_verifiers(self) -> dict[str, VerifierConfig]:
        """Every verifier of the run, by the name of its verdicts; see ``configured``."""
        return configured(self.verifier, self.verifiers)

    @property
    def combination(self) -> Combination:
        """All judges, verifiers before reward models, and how they make a reward."""
        judges = {**self.all_verifiers, **self.reward_models}
        weights = {name: judge.weight for name, judge in judges.items()}
        return Combination(weights=weights, rewards=self.rewards)


@dataclass(kw_only=True)
class RLConfig(JudgedOptions):
    """Everything ``rlpost rl`` can be told."""

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = number(
        0, at_least=0, at_most=2**31 - 1, help="of data order, sampling and initial values"
    )
    resume: str = option(
        "auto",
        help="auto: from the latest checkpoint, if there is one; never; or a checkpoint directory",
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: Any = option(MISSING, help="few weights to train beside the model's own, or none")
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rl: StalenessConfig = field(default_factory=StalenessConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    verifier: Any = option(MISSING, help="kind of verifier")
    verifiers: dict[str, Any] = option(
        {}, help="more verifiers by names of your choice: +verifier@verifiers.NAME=KIND"
    )
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    loss: Any = option(MISSING, help="loss of a token")
    optimizer: Any = option(MISSING, help="how gradients become updates; a critic always has adamw")
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    reward_models: dict[str, Any] = option(
        {}, help="reward models by names of your choice: +reward_models.NAME.path=PATH"
    )
    critic: CriticRoleConfig = field(default_factory=CriticRoleConfig)
    reference: ReferenceRanksConfig = field(default_factory=ReferenceRanksConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    failures: FailureConfig = field(default_factory=FailureConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: JudgedClusterConfig = field(default_factory=JudgedClusterConfig)
