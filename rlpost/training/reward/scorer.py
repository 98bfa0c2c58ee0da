"""A frozen reward model: sequences in, one score each out.

Owns verdicts. Refuses to own the model (classifier.py, rollout/vllm_classifier.py), what it
reads (reader.py), weights and normalisation (cluster/reward.py). Stateless and
restartable.
"""

import math
import time
from collections.abc import Sequence
from typing import Protocol

from rlpost.errors import DataError, UserError
from rlpost.training.reward.classifier import Classifier
from rlpost.training.reward.reader import RewardReader, RewardSample
from rlpost.training.reward.settings import RewardEngine, RewardModelConfig
from rlpost.types import Verdict


class ScoringEngine(Protocol):
    """Computes scores; a sequence's does not depend on what it is batched with."""

    def scores(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Score sequences of token ids that fit the model's context, in order."""

    def sleep(self) -> int:
        """Leave memory until the next call, if it can; returns the bytes."""


class RewardScorer:
    """Loads the model at ``model_path``; what it reads is ``RewardReader``'s to say.

    Args:
        cfg: its options.
        model_path: ``cfg.path``, located.
        policy_path: the model whose responses are scored.
        name: of its verdicts; errors call ``cfg`` by ``reward_models.<name>``.

    Raises:
        UserError: there is no sequence classifier with one label and a tokenizer.
    """

    def __init__(
        self, cfg: RewardModelConfig, *, model_path: str, policy_path: str, name: str = "reward"
    ) -> None:
        from transformers import AutoConfig

        self._name, self._path = name, model_path
        field = f"reward_models.{name}.path"
        check_reward_model(model_path, field=field)
        try:
            self._engine = _engine(cfg, model_path)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{field}: {model_path!r} cannot be loaded as a reward model by "
                f"{cfg.engine.value}: {error}"
            ) from error
        self._reader = RewardReader(model_path=model_path, policy_path=policy_path, name=name)
        config = AutoConfig.from_pretrained(model_path).get_text_config()
        self._context = getattr(config, "max_position_embeddings", None)

    def judge(self, samples: Sequence[RewardSample]) -> list[Verdict]:
        """Score responses in order.

        What the model cannot read, or a score that is not finite, is a verdict without a
        reward.
        """
        start = time.perf_counter()
        read = [self._readable(sample) for sample in samples]
        scores = iter(self.scores([ids for ids in read if isinstance(ids, list)]))
        found = [next(scores) if isinstance(ids, list) else ids for ids in read]
        latency_s = (time.perf_counter() - start) / max(1, len(samples))
        return [self._verdict(each, latency_s) for each in found]

    def _readable(self, sample: RewardSample) -> list[int] | str:
        """Return what the model reads, or why it cannot."""
        try:
            ids = self._reader.ids(sample)
        except DataError as error:
            return str(error)
        return self._length_error(len(ids)) or ids

    def _verdict(self, found: float | str, latency_s: float) -> Verdict:
        if isinstance(found, float) and math.isfinite(found):
            return Verdict(verifier=self._name, reward=found, latency_s=latency_s)
        error = found if isinstance(found, str) else f"the score is {found}"
        return Verdict(verifier=self._name, reward=None, error=error, latency_s=latency_s)

    def scores(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Score sequences of the reward model's own token ids, in order.

        Raises:
            DataError: a sequence is empty or longer than the model's context.
        """
        for sequence in sequences:
            if error := self._length_error(len(sequence)):
                raise DataError(f"reward_models.{self._name}: {error}")
        return self._engine.scores(sequences)

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


def _engine(cfg: RewardModelConfig, model_path: str) -> ScoringEngine:
    if cfg.engine is RewardEngine.transformers:
        return Classifier(cfg, model_path=model_path)
    from rlpost.rollout.vllm_classifier import VllmClassifier

    return VllmClassifier(cfg, model_path=model_path)


def check_reward_model(model_path: str, *, field: str) -> None:
    """Check what needs no weights.

    Raises:
        UserError: ``model_path`` holds no sequence classifier with one label.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path)
    names = config.architectures or []
    if not any(name.endswith("ForSequenceClassification") for name in names):
        raise UserError(
            f"{field}: {model_path!r} must hold a sequence classifier, got {names}; its scoring "
            "head would start at random. Train a reward model first"
        )
    if config.num_labels != 1:
        raise UserError(
            f"{field}: {model_path!r} must have one label, got {config.num_labels}; use a model "
            "that was trained to give one score"
        )
