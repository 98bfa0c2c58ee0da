"""A frozen model that scores packed tokens: the reference of the KL term.

Owns a model without optimizer, engine or process group. Stateless and restartable.
Invariant: its forward pass is the trainer's, so a reference equal to the policy gives
equal numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch

from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.packed_model import score_batches
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.parking import Parking
from rlpost.training.precision import compute_device, resolve_dtype
from rlpost.training.settings import TrainerConfig


class FrozenScorer:
    """Loads ``model`` in the trainer's dtype.

    Raises:
        UserError: the model cannot be loaded or packed.
    """

    def __init__(self, cfg: TrainerConfig, *, model: TrainedModel) -> None:
        torch.set_num_threads(cfg.threads_per_rank())
        self._device = compute_device()
        module = model.load(dtype=resolve_dtype(cfg.dtype))
        self._module = module.to(self._device).eval().requires_grad_(False)
        self._parking = Parking(self._module, device=self._device, frozen=True)

    def score(self, batches: Sequence[MicroBatch], temperature: float) -> list[np.ndarray]:
        """Score the scored tokens of every micro-batch; see ``packed_model.score_batches``."""
        self._parking.wake()
        return score_batches(self._module, batches, device=self._device, temperature=temperature)

    def sleep(self) -> int:
        """Move the weights out of memory until the next call; returns their bytes."""
        return self._parking.park()
