"""A frozen reward model: sequences in, one score each out.

Owns the loading of a sequence classifier, what it is given to read, padding and batching.
Refuses to own weights and normalisation (cluster/reward.py). Invariant: a sequence's score
does not depend on what it is batched with. Stateless and restartable.

Pad handling: sequences are padded on the right with an attention mask, and the score is read
at the last *real* token by length. transformers' own pooling looks for the last id that
differs from ``config.pad_token_id``: it refuses batches without one, and where the
end-of-sequence token is the pad token it reads the token before it.

Legend: S sequences of one batch, T tokens of the longest.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlpost.errors import DataError, UserError
from rlpost.models.vocabulary import same_vocabulary
from rlpost.training.precision import compute_device, resolve_dtype
from rlpost.training.reward_settings import RewardModelConfig
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
        torch.set_num_threads(cfg.num_threads())
        self._cfg, self._name, self._path = cfg, name, model_path
        self._device = compute_device()
        model, self._tokenizer = _load(
            model_path, resolve_dtype(cfg.dtype), field=f"reward_models.{name}.path"
        )
        self._model = model.to(self._device).eval().requires_grad_(False)
        self.reads_ids = same_vocabulary(model_path, policy_path)
        text_config = model.config.get_text_config()
        self._context = getattr(text_config, "max_position_embeddings", None)
        # Never looked at, so any id of the vocabulary will do; not every model names one.
        self._pad = text_config.pad_token_id if text_config.pad_token_id is not None else 0

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

    @torch.no_grad()
    def scores(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Score sequences of the reward model's own token ids, in order.

        Raises:
            DataError: a sequence is empty or longer than the model's context.
        """
        for sequence in sequences:
            if error := self._length_error(len(sequence)):
                raise DataError(f"reward_models.{self._name}: {error}")
        scores = [0.0] * len(sequences)
        for indices in batches_by_length(
            [len(s) for s in sequences], max_tokens=self._cfg.max_tokens_per_batch
        ):
            found_S = self._score_batch([sequences[i] for i in indices])
            for index, score in zip(indices, found_S.tolist(), strict=True):
                scores[index] = score
        return scores

    def _length_error(self, length: int) -> str | None:
        if not length:
            return "an empty sequence has no score"
        if self._context is not None and length > self._context:
            return (
                f"a sequence of {length} tokens exceeds the {self._context} that {self._path!r} "
                "can read"
            )
        return None

    def _score_batch(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        lengths_S = torch.tensor([len(s) for s in sequences], device=self._device)
        longest = int(lengths_S.max())
        ids_ST = torch.full((len(sequences), longest), self._pad, device=self._device)
        for row, sequence in zip(ids_ST, sequences, strict=True):
            row[: len(sequence)] = torch.as_tensor(sequence, device=self._device)
        mask_ST = torch.arange(longest, device=self._device) < lengths_S[:, None]
        inputs = {"input_ids": ids_ST, "attention_mask": mask_ST.long()}
        head = getattr(self._model, "score", None)
        if head is None:  # an encoder, which reads its first token: no pooling by length
            return self._model(**inputs).logits.float().squeeze(-1)
        hidden_STE = self._model.base_model(**inputs, use_cache=False).last_hidden_state
        rows_S = torch.arange(len(sequences), device=self._device)
        return head(hidden_STE[rows_S, lengths_S - 1]).float().squeeze(-1)


def batches_by_length(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Indices of like lengths together, at most ``max_tokens`` padded tokens a batch.

    A sequence above the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


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


def _load(model_path: str, dtype: torch.dtype, *, field: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    check_reward_model(model_path, field=field)
    try:
        model = AutoModelForSequenceClassification.from_pretrained(model_path, dtype=dtype)
        return model, AutoTokenizer.from_pretrained(model_path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{field}: {model_path!r} cannot be loaded as a reward model: {error}"
        ) from error
