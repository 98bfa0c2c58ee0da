"""A frozen model that scores packed tokens: the reference of the KL term.

Owns a model without optimizer, engine or process group. Stateless and restartable.
Invariant: its forward pass is the trainer's, so a reference equal to the policy gives
equal numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch

from rlpost.training.batch import TokenBatch
from rlpost.training.parking import Parking
from rlpost.training.policy import PolicyInputs, load_policy
from rlpost.training.precision import compute_device, resolve_dtype
from rlpost.training.settings import TrainerConfig


class FrozenScorer:
    """Loads the model at ``model_path`` in the trainer's dtype.

    Raises:
        UserError: the model cannot be loaded or packed.
    """

    def __init__(self, cfg: TrainerConfig, *, model_path: str) -> None:
        torch.set_num_threads(cfg.threads_per_rank())
        self._device = compute_device()
        policy = load_policy(
            model_path, dtype=resolve_dtype(cfg.dtype), logprob_chunk=cfg.logprob_chunk
        )
        self._policy = policy.to(self._device).eval().requires_grad_(False)
        self._parking = Parking(self._policy, device=self._device, frozen=True)

    @torch.no_grad()
    def logprobs(self, batches: Sequence[TokenBatch], temperature: float) -> list[np.ndarray]:
        """Log-probs (nats, float32, (R,)) of every micro-batch's response tokens."""
        self._parking.wake()
        results = []
        for batch in batches:
            inputs = PolicyInputs.of(batch, device=self._device)
            logprobs_R, _ = self._policy(inputs, temperature=temperature)
            results.append(logprobs_R.cpu().numpy())
        return results

    def sleep(self) -> int:
        """Move the weights out of memory until the next call; returns their bytes."""
        return self._parking.park()
