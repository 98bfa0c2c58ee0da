"""A frozen model that is asked of packed tokens: the reference of the KL term, or a teacher.

Owns a model without optimizer, engine or process group, and what such a model answers. Refuses to
own models whose weights ranks divide (zero/deepspeed_scorer.py). Stateless and restartable.
Invariant: its forward pass is the trainer's, so a reference equal to the policy gives the same
numbers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rlpost.training.model.frozen_heads import TopTokensHead
from rlpost.training.model.loading import TrainedModel, load_whole
from rlpost.training.model.packed_model import ModelInputs, score_batches
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.parking import Parking
from rlpost.training.precision import compute_device, resolve_dtype
from rlpost.training.settings import TrainerConfig

# Which micro-batches of those it is given a scorer takes, where several divide them: (1, 3) is the
# second, the fifth and so on.
Share = tuple[int, int]
ALL: Share = (0, 1)


class FrozenScorer:
    """Loads ``model`` in the trainer's dtype.

    Raises:
        UserError: the model cannot be loaded or packed.
    """

    def __init__(self, cfg: TrainerConfig, *, model: TrainedModel) -> None:
        torch.set_num_threads(cfg.threads_per_rank())
        self._device = compute_device()
        self._module = load_whole(model, dtype=resolve_dtype(cfg.dtype))
        self._chunk = cfg.logprob_chunk
        self._parking = Parking(self._module, device=self._device, frozen=True)

    def score(
        self, batches: Sequence[MicroBatch], temperature: float, *, share: Share = ALL
    ) -> list[np.ndarray]:
        """Score the scored tokens of a share's micro-batches; see ``score_batches``."""
        self._parking.wake()
        mine = of_share(batches, share)
        return score_batches(self._module, mine, device=self._device, temperature=temperature)

    def top_tokens(
        self,
        batches: Sequence[MicroBatch],
        *,
        k: int,
        vocabulary: int,
        temperature: float,
        share: Share = ALL,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return what ``top_tokens`` keeps of a share's scored tokens: (R, K), (R, B) each."""
        self._parking.wake()
        return top_tokens_of(
            self._module,
            of_share(batches, share),
            head=TopTokensHead(k=k, vocabulary=vocabulary, chunk=self._chunk),
            device=self._device,
            temperature=temperature,
        )

    def sleep(self) -> int:
        """Move the weights out of memory until the next call; returns their bytes."""
        return self._parking.park()


@torch.no_grad()
def top_tokens_of(
    module: Any,
    batches: Sequence[MicroBatch],
    *,
    head: TopTokensHead,
    device: torch.device,
    temperature: float,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ask a ``PackedModel``, or the engine around it, of every micro-batch's scored tokens."""
    found = []
    for batch in batches:
        inputs = ModelInputs.of(batch, device=device)
        ids_RK, logs_RB = module(inputs, temperature=temperature, head=head)
        found.append((ids_RK.cpu().numpy(), logs_RB.cpu().numpy()))
    return found


def of_share(batches: Sequence[MicroBatch], share: Share) -> Sequence[MicroBatch]:
    """Example: ``of_share([a, b, c, d, e], (1, 3)) == [b, e]``."""
    first, every = share
    return batches[first::every]
