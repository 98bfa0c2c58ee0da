"""The shape of a stage's configuration: one tree of dataclasses.

Owns the composition; every dataclass of a room lies above what it configures. Refuses to
own choices (YAML), names (store.py) and cross-field rules (checks.py). Invariant: after
``cli/`` turned the tree into these objects nobody sees an OmegaConf object again.
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
from rlpost.bounds import number, numbers
from rlpost.checkpoint.store import CheckpointConfig
from rlpost.cluster.session import ClusterConfig
from rlpost.control.failures import FailureConfig
from rlpost.control.staleness import StalenessConfig
from rlpost.data.dataset import DataConfig
from rlpost.errors import UserError
from rlpost.models.embedded import NAME as EMBEDDED_MODEL
from rlpost.rollout.collector import OnVerifierError
from rlpost.rollout.interruption import InterruptionConfig
from rlpost.rollout.vllm_generator import GeneratorConfig
from rlpost.tracking.config import TrackingConfig
from rlpost.training.critic_settings import CriticConfig
from rlpost.training.settings import TrainerConfig
from rlpost.types import SamplingConfig
from rlpost.weights.publisher import WeightsConfig

MAX_STOPS = 16  # strings, or tokens
MAX_STOP_CHARACTERS = 100  # every sampled token is compared with the end of the text

MAX_NAME_BYTES = 200  # file systems allow 255, and scratch files add to a name

# vLLM samples at 0.01 whatever lies between 0 and that, and refuses what lies above 2.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2.0


@dataclass(kw_only=True)
class RunConfig:
    """Where a run lives: ``<dir>/<name>``."""

    name: str | None = None  # None: the stage, plus the overrides of a sweep member
    dir: str = "runs"

    def check(self, path: str = "run") -> None:
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
class ModelConfig:
    """The policy to start from."""

    path: str = EMBEDDED_MODEL  # embedded model, local directory or hub id


@dataclass(kw_only=True)
class RolloutConfig:
    """What is sampled for one optimizer step."""

    prompts_per_step: int = number(16, at_least=1, at_most=10**6)
    group_size: int = number(8, at_least=1, at_most=10**4)  # responses per prompt
    max_tokens: int = number(256, at_least=1, at_most=10**7)  # per response
    # Also divides the training logits.
    temperature: float = number(
        1.0,
        at_least=MIN_TEMPERATURE,
        at_most=MAX_TEMPERATURE,
        hint="greedy responses of a group are equal and teach nothing; 1.0 is usual",
    )
    stop: list[str] = field(default_factory=list)  # strings that end a response and belong to it
    # Beside the model's end-of-sequence.
    stop_token_ids: list[int] = numbers(at_least=0, at_most=10**7)
    interruption: InterruptionConfig = field(default_factory=InterruptionConfig)
    on_verifier_error: OnVerifierError = OnVerifierError.sample

    @property
    def sampling(self) -> SamplingConfig:
        return SamplingConfig(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
        )

    def check(self, path: str = "rollout") -> None:
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

    advantage: Any = MISSING  # group algorithm/advantage
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    dynamic_sampling: DynamicSamplingConfig = field(default_factory=DynamicSamplingConfig)
    reduction: ReductionConfig = field(default_factory=ReductionConfig)
    kl: KLConfig = field(default_factory=KLConfig)
    entropy_coefficient: float = number(0.0, above=-1, below=1, hint="0.001 is a large bonus")
    anchor: Anchor = Anchor.rollout
    corrections: dict[str, Any] = field(default_factory=dict)  # group algorithm/corrections
    epochs: int = number(1, at_least=1, at_most=1000)  # passes over the responses of a step
    mini_batches: int = number(1, at_least=1, at_most=10**6)  # optimizer steps per pass

    @property
    def updates_per_step(self) -> int:
        return self.epochs * self.mini_batches


@dataclass(kw_only=True)
class CriticRoleConfig(CriticConfig):
    """The value model: whether there is one, how it trains and what it minimises."""

    enabled: bool = False
    loss: CriticLossConfig = field(default_factory=CriticLossConfig)


@dataclass(kw_only=True)
class EvaluationConfig:
    """Rewards on held-out prompts: before, every so many steps, and after."""

    # Steps; 0: only before and after.
    every: int = number(5, at_least=0, at_most=10**8, hint="0 evaluates only before and after")
    samples: int = number(1, at_least=1, at_most=10**4)  # responses per held-out prompt
    temperature: float = number(1.0, at_least=0, at_most=MAX_TEMPERATURE)

    def check(self, path: str = "evaluation") -> None:
        """Raises UserError: a temperature that the sampler would not keep to."""
        greedy = self.temperature == 0
        if not (greedy or MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE):
            raise UserError(
                f"{path}.temperature must be 0 (greedy) or in [{MIN_TEMPERATURE:g}, "
                f"{MAX_TEMPERATURE:g}], got {self.temperature}"
            )


@dataclass(kw_only=True)
class RLConfig:
    """Everything ``rlpost rl`` can be told."""

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = number(0, at_least=0, at_most=2**31 - 1)
    resume: str = "auto"  # auto | never | a checkpoint directory
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rl: StalenessConfig = field(default_factory=StalenessConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    verifier: Any = MISSING  # group verifier
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    loss: Any = MISSING  # group loss
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    reward_models: dict[str, Any] = field(default_factory=dict)  # name -> RewardModelConfig
    critic: CriticRoleConfig = field(default_factory=CriticRoleConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    failures: FailureConfig = field(default_factory=FailureConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
