"""One rank of a frozen model whose weights the ranks divide: what ``FrozenScorer`` answers.

Owns the rank: its place in the process group, its passes and its sleep. Refuses to own how the
weights are divided and gathered (deepspeed_frozen.py) and which rank is asked of what (cluster/).
Stateless: a lost group is replaced as a whole and asked again. Invariants: every pass is
collective, so all ranks make equally many; what a rank answers is what the whole model answers.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from rlpost.training.model.frozen_heads import TopTokensHead
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.packed_model import score_batches
from rlpost.training.model.scorer import top_tokens_of
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.packing.pack import dummy_batch
from rlpost.training.parking import Parking
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero import deepspeed_engine as ds
from rlpost.training.zero.deepspeed_frozen import divided_engine, release
from rlpost.training.zero.rank import Rank

T = TypeVar("T")


class DividedScorer:
    """Joins the ranks and loads this rank's part of ``model`` in the trainer's dtype; collective.

    Raises:
        UserError: the model cannot be loaded or packed; on every rank.
    """

    def __init__(self, cfg: TrainerConfig, *, model: TrainedModel, place: Rank) -> None:
        torch.set_num_threads(cfg.threads_per_rank())
        self._device = ds.join_ranks(**vars(place))
        self._engine = divided_engine(model, dtype=resolve_dtype(cfg.dtype))
        self._chunk = cfg.logprob_chunk
        self._parking = Parking(self._engine, device=self._device, frozen=True)

    def score(
        self, batches: Sequence[MicroBatch], temperature: float, *, passes: int
    ) -> list[np.ndarray]:
        """Score the scored tokens of this rank's micro-batches; see ``score_batches``.

        Args:
            batches: this rank's, which may be none.
            temperature: divides the logits.
            passes: that all ranks make; at least as many as the micro-batches of any.
        """

        def ask(module: Any, batches: Sequence[MicroBatch]) -> list[np.ndarray]:
            return score_batches(module, batches, device=self._device, temperature=temperature)

        return self._in_step(ask, batches, passes=passes)

    def top_tokens(
        self,
        batches: Sequence[MicroBatch],
        *,
        k: int,
        vocabulary: int,
        temperature: float,
        passes: int,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """See ``FrozenScorer.top_tokens`` and ``score``."""
        head = TopTokensHead(k=k, vocabulary=vocabulary, chunk=self._chunk)

        def ask(module: Any, batches: Sequence[MicroBatch]) -> list[tuple[np.ndarray, np.ndarray]]:
            return top_tokens_of(
                module, batches, head=head, device=self._device, temperature=temperature
            )

        return self._in_step(ask, batches, passes=passes)

    def _in_step(
        self,
        ask: Callable[[Any, Sequence[MicroBatch]], list[T]],
        batches: Sequence[MicroBatch],
        *,
        passes: int,
    ) -> list[T]:
        """Make as many passes as all ranks do; the answers are those of ``batches`` alone."""
        self._parking.wake()
        missing = passes - len(batches)
        assert missing >= 0, f"{len(batches)} micro-batches in {passes} passes"
        filled = [*batches, *(dummy_batch() for _ in range(missing))]
        return ask(self._engine, filled)[: len(batches)]

    def sleep(self) -> int:
        """Move this rank's part out of memory until the next call; returns its bytes."""
        release(self._engine)
        return self._parking.park()

    def close(self) -> None:
        """Leave the ranks; the process may join others afterwards."""
        ds.leave_ranks(self._engine)
