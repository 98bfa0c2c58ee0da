"""A frozen model that is asked of packed tokens: the reference of the KL term, or a teacher.

Owns a model without optimizer, engine or process group. Stateless and restartable.
Invariant: its forward pass is the trainer's, so a reference equal to the policy gives
equal numbers.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from rlpost.algorithms.distill.top_tokens import top_tokens
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.logprobs import in_chunks, logits_of
from rlpost.training.model.packed_model import (
    ModelInputs,
    PackedModel,
    packed_hidden,
    score_batches,
)
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
        module = model.load(dtype=resolve_dtype(cfg.dtype))
        self._module: PackedModel = module.to(self._device).eval().requires_grad_(False)
        self._chunk = cfg.logprob_chunk
        self._parking = Parking(self._module, device=self._device, frozen=True)

    def score(
        self, batches: Sequence[MicroBatch], temperature: float, *, share: Share = ALL
    ) -> list[np.ndarray]:
        """Score the scored tokens of a share's micro-batches; see ``score_batches``."""
        self._parking.wake()
        mine = _of_share(batches, share)
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
        asked = partial(top_tokens, k=k, vocabulary=vocabulary, temperature=temperature)
        found = []
        for batch in _of_share(batches, share):
            inputs = ModelInputs.of(batch, device=self._device)
            ids_RK, logs_RB = self._of_logits(asked, inputs)
            found.append((ids_RK.cpu().numpy(), logs_RB.cpu().numpy()))
        return found

    @torch.no_grad()
    def _of_logits(
        self, function: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], inputs: ModelInputs
    ) -> tuple[torch.Tensor, ...]:
        """Apply ``function`` to the logits of the scored tokens, of one chunk at a time."""
        model = self._module.model
        head = logits_of(model)
        hidden_RE = packed_hidden(model.get_decoder(), inputs)[inputs.read_R]
        return in_chunks(lambda part_CE: function(head(part_CE)), hidden_RE, chunk=self._chunk)

    def sleep(self) -> int:
        """Move the weights out of memory until the next call; returns their bytes."""
        return self._parking.park()


def _of_share(batches: Sequence[MicroBatch], share: Share) -> Sequence[MicroBatch]:
    first, every = share
    return batches[first::every]
