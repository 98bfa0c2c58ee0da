"""A frozen reward model: responses in, one score each out.

Owns verdicts. Refuses to own the model (classifier.py, rollout/vllm/classifier.py), what it
reads (reader.py), weights and normalisation (cluster/reward.py). Stateless and
restartable.
"""

import math
import time
from collections.abc import Sequence
from typing import Protocol

from rlpost.data.conversation.step_ends import STEP_SEPARATOR
from rlpost.errors import DataError, UserError
from rlpost.models.directory.config_file import ModelKind
from rlpost.training.model.classifier_heads import is_classifier
from rlpost.training.reward.classifier import Classifier
from rlpost.training.reward.reader import ReadResponse, RewardReader, RewardSample
from rlpost.training.reward.settings import RewardEngine, RewardModelConfig, StepReduction
from rlpost.training.zero.rank import Rank
from rlpost.types import Verdict


class ScoringEngine(Protocol):
    """Computes scores; a sequence's do not depend on what it is batched with."""

    def scores(self, readings: Sequence[ReadResponse]) -> list[list[float]]:
        """Score token ids that fit the model's context, each at its ends, in order."""

    def sleep(self) -> int:
        """Leave memory until the next call, if it can; returns the bytes."""


class RewardScorer:
    """Loads the model at ``model_path``; what it reads is ``RewardReader``'s to say.

    Args:
        cfg: its options.
        model_path: ``cfg.path``, located.
        policy_path: the model whose responses are scored.
        name: of its verdicts; errors call ``cfg`` by ``reward_models.<name>``.
        place: among the ranks that divide the model, each of which is asked the same; None: this
            process has all of it.

    Raises:
        UserError: there is no classifier that gives one number, or no tokenizer.
    """

    def __init__(
        self,
        cfg: RewardModelConfig,
        *,
        model_path: str,
        policy_path: str,
        name: str = "reward",
        place: Rank | None = None,
    ) -> None:
        from transformers import AutoConfig

        self._name, self._path = name, model_path
        field = f"reward_models.{name}.path"
        check_reward_model(model_path, cfg, field=field)
        of_tokens = is_classifier(model_path, kind=ModelKind.process)
        try:
            self._engine = _engine(cfg, model_path, field=field, place=place)
        except UserError:  # a divided model's, which names the field
            raise
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{field}: {model_path!r} cannot be loaded as a reward model by "
                f"{cfg.engine.value}: {error}"
            ) from error
        self._reader = RewardReader(
            model_path=model_path,
            policy_path=policy_path,
            name=name,
            step_separator=(cfg.step_separator or STEP_SEPARATOR) if of_tokens else None,
        )
        self._reduce = (cfg.reduce or StepReduction.min) if of_tokens else None
        config = AutoConfig.from_pretrained(model_path).get_text_config()
        self._context = getattr(config, "max_position_embeddings", None)

    def judge(self, samples: Sequence[RewardSample]) -> list[Verdict]:
        """Score responses in order.

        What the model cannot read, or a score that is not finite, is a verdict without a
        reward.
        """
        start = time.perf_counter()
        read = [self._readable(sample) for sample in samples]
        scores = iter(
            self._engine.scores([each for each in read if isinstance(each, ReadResponse)])
        )
        found = [
            reduced(next(scores), self._reduce) if isinstance(each, ReadResponse) else each
            for each in read
        ]
        latency_s = (time.perf_counter() - start) / max(1, len(samples))
        return [self._verdict(each, latency_s) for each in found]

    def _readable(self, sample: RewardSample) -> ReadResponse | str:
        """Return what the model reads, or why it cannot."""
        try:
            reading = self._reader.read(sample)
        except DataError as error:
            return str(error)
        return self._length_error(len(reading.ids)) or reading

    def _verdict(self, found: float | str, latency_s: float) -> Verdict:
        if isinstance(found, float) and math.isfinite(found):
            return Verdict(verifier=self._name, reward=found, latency_s=latency_s)
        error = found if isinstance(found, str) else f"the score is {found}"
        return Verdict(verifier=self._name, reward=None, error=error, latency_s=latency_s)

    def scores(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Score sequences of the reward model's own token ids at their last tokens, in order.

        Raises:
            DataError: a sequence is empty or longer than the model's context.
        """
        for sequence in sequences:
            if error := self._length_error(len(sequence)):
                raise DataError(f"reward_models.{self._name}: {error}")
        whole = [ReadResponse(ids=ids, ends=(len(ids) - 1,)) for ids in sequences]
        return [score for (score,) in self._engine.scores(whole)]

    def sleep(self) -> int:
        """Have the engine leave memory until the next call; returns the bytes it freed."""
        return self._engine.sleep()

    def _length_error(self, length: int) -> str | None:
        if not length:
            return "an empty sequence has no score"
        if self._context is not None and length > self._context:
            return (
                f"a sequence of {length} tokens exceeds the {self._context} that {self._path!r} "
                "can read"
            )
        return None


def _engine(
    cfg: RewardModelConfig, model_path: str, *, field: str, place: Rank | None
) -> ScoringEngine:
    if place is not None:
        from rlpost.training.zero.deepspeed_classifier import DividedClassifier

        return DividedClassifier(cfg, model_path=model_path, field=field, place=place)
    if cfg.engine is RewardEngine.transformers:
        return Classifier(cfg, model_path=model_path)
    from rlpost.rollout.vllm.classifier import VllmClassifier

    return VllmClassifier(cfg, model_path=model_path)


def reduced(scores: Sequence[float], reduction: StepReduction | None) -> float:
    """Return one number of a response's scores: the only one, or, of steps' logits, a probability.

    Example: ``reduced([0.0, 50.0], StepReduction.product) == 0.5``
    """
    if reduction is None:
        (score,) = scores
        return score
    if not all(map(math.isfinite, scores)):
        return math.nan
    right = [_probability(score) for score in scores]
    match reduction:
        case StepReduction.min:
            return min(right)
        case StepReduction.product:
            return math.prod(right)
        case StepReduction.last:
            return right[-1]


def _probability(logit: float) -> float:
    small = math.exp(-abs(logit))
    return (1.0 if logit >= 0 else small) / (1 + small)


def check_reward_model(model_path: str, cfg: RewardModelConfig, *, field: str) -> None:
    """Check what needs no weights.

    Raises:
        UserError: ``model_path`` holds no classifier that gives one number, or an option has no
            effect on it.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path)
    if is_classifier(model_path, kind=ModelKind.process):
        _check_step_model(config.num_labels, model_path, cfg, field=field)
        return
    if not is_classifier(model_path, kind=ModelKind.outcome):
        raise UserError(
            f"{field}: {model_path!r} must hold a sequence or token classifier, got "
            f"{config.architectures or []}; its scoring head would start at random. Train a reward "
            "model first, with rlpost reward"
        )
    if config.num_labels != 1:
        raise UserError(
            f"{field}: {model_path!r} must have one label, got {config.num_labels}; use a model "
            "that was trained to give one score"
        )
    for name in ("reduce", "step_separator"):
        if getattr(cfg, name) is not None:
            raise UserError(
                f"{field.removesuffix('path')}{name} has no effect: {model_path!r} scores whole "
                "responses; leave it out, or use a token classifier, which scores steps"
            )


def _check_step_model(
    num_labels: int, model_path: str, cfg: RewardModelConfig, *, field: str
) -> None:
    if num_labels > 2:
        raise UserError(
            f"{field}: {model_path!r} must have one label or two (wrong, right), got {num_labels}; "
            "use a model that was trained to judge steps"
        )
    if cfg.engine is not RewardEngine.transformers:
        raise UserError(
            f"{field.removesuffix('path')}engine={cfg.engine.value} cannot read token classifiers "
            f"such as {model_path!r}; use engine=transformers"
        )
