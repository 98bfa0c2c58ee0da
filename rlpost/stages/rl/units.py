"""Groups -> units to pack, and the weights of their tokens.

Owns which trajectories are trained on or scored, and their columns. Refuses to own advantages,
denominators (algorithms/reduce.py) and the layout (training/packing/pack.py). Invariant: weights
are made over the whole optimizer batch, so how it is split changes no loss and no gradient.

An item's number is its trajectory's place in ``[t for g in groups for t in g.trajectories]``,
those left out included, so that results map back without a table.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlpost.algorithms.reduce import ReductionConfig, loss_weights
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.units import Unit
from rlpost.types import Group, Trajectory

Advantages = Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a run packs."""

    num_ranks: int
    max_tokens: int
    share_prompts: bool = True

    def pack(self, groups: Sequence[Group], chosen: Collection[int]) -> Packed:
        """Pack the trajectories of these numbers, each a unit; those of a group are a family."""
        units = [
            Unit.sharing(
                t.prompt_ids,
                {number: t.response_ids},
                family=p,
                name=f"prompt {t.uid}, sample {t.sample}",
            )
            for (number, t), p in zip(numbered(groups), prompts_of(groups), strict=True)
            if number in chosen
        ]
        return pack(
            units,
            num_ranks=self.num_ranks,
            max_tokens=self.max_tokens,
            share_prompts=self.share_prompts,
        )


def numbered(groups: Sequence[Group]) -> Iterator[tuple[int, Trajectory]]:
    """Yield every trajectory with its number."""
    return enumerate(t for group in groups for t in group.trajectories)


def prompts_of(groups: Sequence[Group]) -> list[int]:
    """Return the place of the group that each trajectory belongs to."""
    return [p for p, group in enumerate(groups) for _ in group.trajectories]


def is_usable(trajectory: Trajectory) -> bool:
    """Whether there is something to train on: a reward, and tokens."""
    return trajectory.reward is not None and len(trajectory.response_ids) > 0


def sampled_tokens(trajectory: Trajectory) -> np.ndarray:
    """Which response tokens (R,) the policy sampled, and were not written into the response."""
    sampled_R = np.ones(len(trajectory.response_ids), dtype=bool)
    sampled_R[slice(*trajectory.written)] = False
    return sampled_R


def pack_to_score(groups: Sequence[Group], packing: Packing) -> Packed:
    """Pack every usable response, without columns."""
    return packing.pack(groups, {n for n, t in numbered(groups) if is_usable(t)})


def pack_to_train(
    groups: Sequence[Group],
    advantages: Advantages,
    *,
    packing: Packing,
    reduction: ReductionConfig,
) -> Packed:
    """Pack one optimizer batch with the columns of every policy loss.

    Args:
        groups: any sizes.
        advantages: one row per group, one value per trajectory, which may be an array over
            its tokens (padded at the end); NaN means "do not train on this". Longer rows
            must be NaN beyond the group (a padded matrix).
        packing: how.
        reduction: denominators; see algorithms/reduce.py.

    Returns:
        The batch with ``advantages_R``, ``rollout_logprobs_R`` (nats) and ``weight_R``.
        Trajectories without a reward, with a NaN advantage or without tokens are left out, also
        of the denominators. It is empty if nothing remains (say, all groups have zero variance).

    Raises:
        UserError: a prompt with one of its responses is longer than a micro-batch.
    """
    values: list[float | np.ndarray] = []
    for group, row in zip(groups, advantages, strict=True):
        size = len(group.trajectories)
        assert len(row) >= size, (group.prompt.uid, len(row))
        assert np.isnan(np.asarray(row[size:], dtype=float)).all(), row
        values.extend(row[:size])
    chosen: dict[int, Trajectory] = {}
    advantages_of: dict[int, np.ndarray] = {}
    for (number, trajectory), value in zip(numbered(groups), values, strict=True):
        advantage_R = _per_token(value, len(trajectory.response_ids))
        assert not np.isinf(advantage_R).any(), (trajectory.uid, trajectory.sample)
        if is_usable(trajectory) and not np.isnan(advantage_R).any():
            chosen[number], advantages_of[number] = trajectory, advantage_R
    return packing.pack(groups, chosen).attach(
        weight_R=_weights(groups, chosen, reduction),
        advantages_R=advantages_of,
        rollout_logprobs_R={n: np.asarray(t.rollout_logprobs) for n, t in chosen.items()},
    )


def _weights(
    groups: Sequence[Group], chosen: dict[int, Trajectory], reduction: ReductionConfig
) -> dict[int, np.ndarray]:
    trajectories, prompt_of = list(chosen.values()), prompts_of(groups)
    weights_S = loss_weights(
        [sampled_tokens(trajectory) for trajectory in trajectories],
        config=reduction,
        kept_S=[not (reduction.mask_truncated and t.truncated) for t in trajectories],
        prompt_S=[prompt_of[number] for number in chosen],
    )
    for trajectory, weight_R in zip(trajectories, weights_S, strict=True):
        weight_R[: trajectory.num_stale] = 0.0  # still counted in the denominators
    return dict(zip(chosen, weights_S, strict=True))


def _per_token(value: float | np.ndarray, length: int) -> np.ndarray:
    """One number for all tokens, or the tokens' own without their padding."""
    values = np.atleast_1d(np.asarray(value, dtype=float))
    return np.repeat(values, length) if len(values) == 1 else values[:length]
