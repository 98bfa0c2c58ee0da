"""Who answers for the model that training started from.

Owns the choice between a frozen copy and the policy without its adapter, and the proof that the
answer is that of the start. Refuses to own models that the options name (preference/prepare.py).
Invariant: before the first step policy and reference give the same log-probs, on real numbers, or
the run ends.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np

from rlpost.cluster.session import ClusterConfig
from rlpost.data.splits import Splits
from rlpost.errors import RunFailed
from rlpost.stages.roles import CanScore, MakesRoom, frozen_score
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.units import Unit
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import TrainerConfig

log = logging.getLogger(__name__)

CHECKED_TOKENS = 128  # of a sequence
# Mean difference, nats: an adapter that changes nothing may round what it passes on.
BOUND_FLOAT32, BOUND_ROUNDED = 1e-4, 0.05

Score = Callable[..., Awaitable[list[list[np.ndarray]]]]


class HasAdapter(MakesRoom, Protocol):
    """A trained group whose adapter can be left out."""

    async def score(
        self, packed: Packed, *, temperature: float = 1.0, adapter: bool = True
    ) -> list[list[np.ndarray]]:
        """Return one value for each scored token of every micro-batch."""


class PolicyWithoutAdapter:
    """The base under a policy's adapter, in the policy's own ranks: no second model."""

    def __init__(self, policy: HasAdapter) -> None:
        self._policy = policy

    async def score(self, packed: Packed, *, temperature: float = 1.0) -> list[list[np.ndarray]]:
        """Score with the base alone; see ``TrainedGroup.score``."""
        return await self._policy.score(packed, temperature=temperature, adapter=False)

    async def sleep(self) -> int:
        """Stay in memory, because the policy needs it next."""
        return 0


def start_reference(frozen: CanScore | None, *, policy: HasAdapter) -> CanScore:
    """Return who answers: the frozen copy, if the plan has one, else the policy's base."""
    return PolicyWithoutAdapter(policy) if frozen is None else frozen


def score_beside(reference: CanScore, *, policy: HasAdapter, cfg: ClusterConfig) -> Score:
    """Return ``reference.score`` for moments in which the policy has nothing to do."""
    if isinstance(reference, PolicyWithoutAdapter):
        return reference.score
    return frozen_score(reference, beside=policy, cfg=cfg)


def first_sequences(splits: Splits, *, num: int = 2) -> list[list[int]]:
    """Return the tokens of the first rows to learn."""
    corpus = next(iter(splits.train.corpora.values()))
    return [corpus.examples(row)[0].ids.tolist() for row in range(min(num, len(corpus)))]


async def require_same_start(
    reference: Score, *, policy: HasAdapter, sequences: Sequence[Sequence[int]], cfg: TrainerConfig
) -> float:
    """Compare policy and reference before the first step; returns their mean difference, nats.

    Args:
        reference: scores for the reference.
        policy: with the weights that training starts from.
        sequences: token ids; at least two tokens each, of which the first are compared.
        cfg: the policy's.

    Raises:
        RunFailed: they differ by more than rounding, so log-probs would be compared with those of
            another model than the start.
    """
    cut = [list(ids)[: min(CHECKED_TOKENS, cfg.max_tokens_per_micro_batch)] for ids in sequences]
    units = [Unit.sharing(ids[:1], {number: ids[1:]}) for number, ids in enumerate(cut)]
    packed = pack(units, num_ranks=cfg.data_ranks, max_tokens=cfg.max_tokens_per_micro_batch)
    ours, theirs = [packed.by_item(await score(packed)) for score in (policy.score, reference)]
    differences = np.concatenate([np.abs(ours[number] - theirs[number]) for number in ours])
    found = float(differences.mean(dtype=np.float64))
    bound = BOUND_FLOAT32 if resolve_dtype(cfg.dtype).itemsize == 4 else BOUND_ROUNDED
    if not found <= bound:
        raise RunFailed(
            f"before the first step the log-probs of policy and reference differ by {found:.3g} "
            f"nats on average (bound {bound:g}), so the reference is not what training starts "
            "from: with model.adapter give the base that the adapter was trained on as model.path"
        )
    log.info("before the first step policy and reference differ by %.2g nats on average", found)
    return found
