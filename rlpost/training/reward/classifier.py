"""A classifier of sequences or of tokens in transformers: token ids in, scores out.

Owns loading, padding and batching. Refuses to own what is read (scorer.py). Invariant: a
sequence's score does not depend on what it is batched with.

Pad handling: sequences are padded on the right with an attention mask, and scores are read at
places that are counted from the left. transformers' own pooling looks for the last id that
differs from ``config.pad_token_id``: it refuses batches without one, and where the
end-of-sequence token is the pad token it reads the token before it.

Legend: S sequences of one batch, T tokens of the longest, N scores of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rlpost.models.directory.config_file import ModelKind
from rlpost.training.model.classifier_heads import is_classifier, score_of_logits
from rlpost.training.parking import Parking
from rlpost.training.precision import compute_device, resolve_dtype
from rlpost.training.reward.reader import ReadResponse
from rlpost.training.reward.settings import RewardModelConfig


class Classifier:
    """Loads the model at ``model_path``.

    Raises:
        OSError, ValueError, KeyError: it cannot be loaded.
    """

    def __init__(self, cfg: RewardModelConfig, *, model_path: str) -> None:
        import transformers

        torch.set_num_threads(cfg.num_threads())
        self._max_tokens = cfg.max_tokens_per_batch
        self._device = compute_device()
        self._of_tokens = is_classifier(model_path, kind=ModelKind.process)
        auto = f"AutoModelFor{'Token' if self._of_tokens else 'Sequence'}Classification"
        model = getattr(transformers, auto).from_pretrained(
            model_path, dtype=resolve_dtype(cfg.dtype)
        )
        self._model = model.to(self._device).eval().requires_grad_(False)
        self._parking = Parking(self._model, device=self._device, frozen=True)
        self._pad = pad_of(model)

    @torch.no_grad()
    def scores(self, readings: Sequence[ReadResponse]) -> list[list[float]]:
        """Score what fits the model's context: for each, one number at each of its ends."""
        self._parking.wake()
        scores: list[list[float]] = [[] for _ in readings]
        lengths = [len(reading.ids) for reading in readings]
        for indices in batches_by_length(lengths, max_tokens=self._max_tokens):
            together = [readings[i] for i in indices]
            found = iter(self._score_batch(together).tolist())
            for index, reading in zip(indices, together, strict=True):
                scores[index] = list(islice(found, len(reading.ends)))
        return scores

    def sleep(self) -> int:
        """Move the weights out of memory until the next call; returns their bytes."""
        return self._parking.park()

    def _score_batch(self, readings: Sequence[ReadResponse]) -> Tensor:
        """Return the scores (N,) of all sequences, one sequence's after the other's."""
        batch = PaddedBatch.of(readings, pad=self._pad, device=self._device)
        inputs, rows, ends = batch.inputs, batch.rows, batch.ends
        if self._of_tokens:
            return score_of_logits(self._model(**inputs).logits[rows, ends].float())
        head = getattr(self._model, "score", None)
        if head is None:  # an encoder, which reads its first token: no pooling by length
            return self._model(**inputs).logits.float().squeeze(-1)
        hidden_STE = self._model.base_model(**inputs, use_cache=False).last_hidden_state
        return head(hidden_STE[rows, ends]).float().squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class PaddedBatch:
    """Sequences side by side, and where their scores are read: N rows and places in them."""

    inputs: dict[str, Tensor]  # ids and mask, (S, T)
    rows: list[int]
    ends: list[int]

    @classmethod
    def of(
        cls, readings: Sequence[ReadResponse], *, pad: int, device: torch.device
    ) -> "PaddedBatch":
        """Pad on the right with the id ``pad``."""
        lengths_S = torch.tensor([len(reading.ids) for reading in readings], device=device)
        longest = int(lengths_S.max())
        ids_ST = torch.full((len(readings), longest), pad, device=device)
        for row, reading in zip(ids_ST, readings, strict=True):
            row[: len(reading.ids)] = torch.as_tensor(reading.ids, device=device)
        mask_ST = torch.arange(longest, device=device) < lengths_S[:, None]
        return cls(
            inputs={"input_ids": ids_ST, "attention_mask": mask_ST.long()},
            rows=[row for row, reading in enumerate(readings) for _ in reading.ends],
            ends=[end for reading in readings for end in reading.ends],
        )


def pad_of(model: Any) -> int:
    """Return an id to pad with: nobody looks at it, and not every model names one."""
    pad = model.config.get_text_config().pad_token_id
    return 0 if pad is None else pad


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
