"""A sequence classifier in transformers: token ids in, one score each out.

Owns loading, padding and batching. Refuses to own what is read (scorer.py). Invariant: a
sequence's score does not depend on what it is batched with.

Pad handling: sequences are padded on the right with an attention mask, and the score is read
at the last *real* token by length. transformers' own pooling looks for the last id that
differs from ``config.pad_token_id``: it refuses batches without one, and where the
end-of-sequence token is the pad token it reads the token before it.

Legend: S sequences of one batch, T tokens of the longest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlpost.training.parking import Parking
from rlpost.training.precision import compute_device, resolve_dtype
from rlpost.training.reward.settings import RewardModelConfig


class Classifier:
    """Loads the model at ``model_path``.

    Raises:
        OSError, ValueError, KeyError: it cannot be loaded.
    """

    def __init__(self, cfg: RewardModelConfig, *, model_path: str) -> None:
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(cfg.num_threads())
        self._max_tokens = cfg.max_tokens_per_batch
        self._device = compute_device()
        model = AutoModelForSequenceClassification.from_pretrained(
            model_path, dtype=resolve_dtype(cfg.dtype)
        )
        self._model = model.to(self._device).eval().requires_grad_(False)
        self._parking = Parking(self._model, device=self._device, frozen=True)
        pad = model.config.get_text_config().pad_token_id
        # Never looked at, so any id of the vocabulary will do; not every model names one.
        self._pad = 0 if pad is None else pad

    @torch.no_grad()
    def scores(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Score sequences that fit the model's context, in order."""
        self._parking.wake()
        scores = [0.0] * len(sequences)
        lengths = [len(sequence) for sequence in sequences]
        for indices in batches_by_length(lengths, max_tokens=self._max_tokens):
            found_S = self._score_batch([sequences[i] for i in indices])
            for index, score in zip(indices, found_S.tolist(), strict=True):
                scores[index] = score
        return scores

    def sleep(self) -> int:
        """Move the weights out of memory until the next call; returns their bytes."""
        return self._parking.park()

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
