"""One rank of a frozen reward model whose weights the ranks divide: a ``ScoringEngine``.

Owns the passes over padded batches. Refuses to own how the weights are divided and gathered
(deepspeed_frozen.py), what is read (training/reward/reader.py) and how it is padded
(training/reward/classifier.py). Invariants: every rank is given the same sequences and returns the
scores of all; all ranks make equally many passes; batches are those of a whole model.

Legend: N scores of all sequences.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlpost.models.directory.config_file import ModelKind
from rlpost.training.model.classifier_heads import SCORE_HEAD, STEP_HEAD, is_classifier
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.packed_model import PackedModel
from rlpost.training.parking import Parking
from rlpost.training.precision import resolve_dtype
from rlpost.training.reward.classifier import PaddedBatch, batches_by_length, pad_of
from rlpost.training.reward.reader import ReadResponse
from rlpost.training.reward.settings import RewardModelConfig
from rlpost.training.zero import deepspeed_engine as ds
from rlpost.training.zero.deepspeed_frozen import divided_engine, release
from rlpost.training.zero.rank import Rank


class PaddedClassifier(nn.Module):
    """The decoder and the head of a ``PackedModel`` before padded batches."""

    def __init__(self, packed: PackedModel) -> None:
        super().__init__()
        self.model, self.score = packed.model, packed.score
        # That of a model which transformers loads by itself.
        self.model.set_attn_implementation("sdpa" if self.model._supports_sdpa else "eager")

    def forward(self, batch: PaddedBatch) -> Tensor:
        """Return the scores (N,) in float32."""
        hidden_STE = self.model(**batch.inputs, use_cache=False).last_hidden_state
        scores_N: Tensor = self.score(hidden_STE[batch.rows, batch.ends])
        return scores_N


class DividedClassifier:
    """Joins the ranks and loads this rank's part of the model at ``model_path``; collective.

    Args:
        cfg: its options.
        model_path: of a classifier of sequences or of tokens.
        field: where it is configured, for errors.
        place: this rank.

    Raises:
        UserError: it cannot be loaded in parts; on every rank.
    """

    def __init__(self, cfg: RewardModelConfig, *, model_path: str, field: str, place: Rank) -> None:
        torch.set_num_threads(cfg.num_threads())
        self._max_tokens = cfg.max_tokens_per_batch
        self._place = place
        self._device = ds.join_ranks(**vars(place))
        of_tokens = is_classifier(model_path, kind=ModelKind.process)
        model = TrainedModel.reward(
            model_path, head=STEP_HEAD if of_tokens else SCORE_HEAD, metrics="reward"
        )
        model = replace(model, labels=replace(model.labels, field=field))
        self._engine: Any = divided_engine(
            model, dtype=resolve_dtype(cfg.dtype), wrap=PaddedClassifier
        )
        self._pad = pad_of(self._engine.module.model)
        self._parking = Parking(self._engine, device=self._device, frozen=True)

    @torch.no_grad()
    def scores(self, readings: Sequence[ReadResponse]) -> list[list[float]]:
        """See ``Classifier.scores``."""
        self._parking.wake()
        lengths = [len(reading.ids) for reading in readings]
        batches = batches_by_length(lengths, max_tokens=self._max_tokens)
        mine = batches[self._place.rank :: self._place.world_size]
        missing = -(-len(batches) // self._place.world_size) - len(mine)
        ends = list(accumulate((len(reading.ends) for reading in readings), initial=0))
        scores_N = torch.zeros(ends[-1], device=self._device)
        for indices in mine:
            places = [place for i in indices for place in range(ends[i], ends[i + 1])]
            scores_N[places] = self._score_batch([readings[i] for i in indices])
        for _ in range(missing):  # the shortest once more: a pass is collective
            self._score_batch([readings[batches[-1][-1]]])
        if batches:
            dist.all_reduce(scores_N)  # each score is one rank's, and 0 at all others
        found = scores_N.tolist()
        return [found[start:end] for start, end in pairwise(ends)]

    def sleep(self) -> int:
        """Move this rank's part out of memory until the next call; returns its bytes."""
        release(self._engine)
        return self._parking.park()

    def close(self) -> None:
        """Leave the ranks; the process may join others afterwards."""
        ds.leave_ranks(self._engine)

    def _score_batch(self, readings: Sequence[ReadResponse]) -> Tensor:
        batch = PaddedBatch.of(readings, pad=self._pad, device=self._device)
        scores_N: Tensor = self._engine(batch)
        return scores_N
