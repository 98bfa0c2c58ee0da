"""A frozen reward model: sequences in, one score each out.

Owns what a sequence classifier is given to read, and verdicts. Refuses to own the model
(classifier.py, rollout/vllm_classifier.py), weights and normalisation (cluster/reward.py).
Stateless and restartable.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlpost.errors import DataError, UserError
from rlpost.models.vocabulary import same_vocabulary
from rlpost.training.classifier import Classifier
from rlpost.training.reward_settings import RewardEngine, RewardModelConfig
from rlpost.types import Prompt, Trajectory, Verdict


@dataclass(frozen=True, kw_only=True)
class RewardSample:
    """One response to score, in both forms a reward model may need.

    Example: ``RewardSample(token_ids=(1, 5, 9, 21), messages=None, prompt="2 * 3 =",
    text=" 6")``
    """

    token_ids: tuple[int, ...]  # of the policy: prompt and response
    messages: tuple[Mapping[str, Any], ...] | None  # None for a plain-string prompt
    prompt: str  # read when ``messages`` is None
    text: str  # the response without special tokens

    @classmethod
    def of(cls, prompt: Prompt, trajectory: Trajectory) -> "RewardSample":
        return cls(
            token_ids=trajectory.prompt_ids + trajectory.response_ids,
            messages=prompt.messages,
            prompt=prompt.text,
            text=trajectory.text,
        )


class ScoringEngine(Protocol):
    """Computes scores; a sequence's does not depend on what it is batched with."""

    def scores(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Score sequences of token ids that fit the model's context, in order."""

    def rest(self) -> int:
        """Leave memory until the next call, if it can; returns the bytes."""


class RewardScorer:
    """Loads the model at ``model_path``.

    The policy's token ids are read as they are when both tokenizers agree on every id; else
    the text is rendered with the reward model's own chat template.

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
        from transformers import AutoConfig, AutoTokenizer

        self._name, self._path = name, model_path
        field = f"reward_models.{name}.path"
        check_reward_model(model_path, field=field)
        try:
            self._engine = _engine(cfg, model_path)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{field}: {model_path!r} cannot be loaded as a reward model by "
                f"{cfg.engine.value}: {error}"
            ) from error
        self.reads_ids = same_vocabulary(model_path, policy_path)
        config = AutoConfig.from_pretrained(model_path).get_text_config()
        self._context = getattr(config, "max_position_embeddings", None)

    def judge(self, samples: Sequence[RewardSample]) -> list[Verdict]:
        """Score responses, by ids or by text as the tokenizers demand, in order.

        A sequence that the model cannot read, or a score that is not finite, is a verdict
        without a reward.

        Raises:
            UserError: messages must be rendered and the model has no chat template.
        """
        start = time.perf_counter()
        sequences = [self._ids(sample) for sample in samples]
        errors = [self._length_error(len(sequence)) for sequence in sequences]
        readable = [i for i, error in enumerate(errors) if error is None]
        scores = self.scores([sequences[i] for i in readable])
        latency_s = (time.perf_counter() - start) / max(1, len(samples))
        verdicts = [
            Verdict(verifier=self._name, reward=None, error=error or "", latency_s=latency_s)
            for error in errors
        ]
        for i, score in zip(readable, scores, strict=True):
            finite = math.isfinite(score)
            verdicts[i] = Verdict(
                verifier=self._name,
                reward=score if finite else None,
                error=None if finite else f"the score is {score}",
                latency_s=latency_s,
            )
        return verdicts

    def _ids(self, sample: RewardSample) -> list[int]:
        if self.reads_ids:
            return list(sample.token_ids)
        if sample.messages is None:
            return self._tokenizer(sample.prompt + sample.text)["input_ids"]
        if self._tokenizer.chat_template is None:
            raise UserError(
                f"reward_models.{self._name}.path: {self._path!r} must have a chat template, "
                "because its tokenizer differs from the policy's and the dataset holds messages; "
                "save one with its tokenizer, or use a reward model of the policy's family"
            )
        reply = {"role": "assistant", "content": sample.text}
        conversation = [dict(message) for message in sample.messages] + [reply]
        text = self._tokenizer.apply_chat_template(conversation, tokenize=False)
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def scores(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Score sequences of the reward model's own token ids, in order.

        Raises:
            DataError: a sequence is empty or longer than the model's context.
        """
        for sequence in sequences:
            if error := self._length_error(len(sequence)):
                raise DataError(f"reward_models.{self._name}: {error}")
        return self._engine.scores(sequences)

    def rest(self) -> int:
        """Have the engine leave memory until the next call; returns the bytes it freed."""
        return self._engine.rest()

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
