"""Groups -> units to pack, and the weights of their tokens.

Owns which trajectories are trained on or scored, and their columns. Refuses to own advantages,
denominators (algorithms/reduce.py) and the layout (training/packing/pack.py). Invariants: weights
are made over the whole optimizer batch, so how it is split changes no loss and no gradient; a
token that was not sampled has no place in a column, so it carries no loss.

Each trajectory is one item, so a loss that needs a whole sequence sees a whole trajectory.

Legend: P groups, G episodes of a group (padded), L sampled tokens of an episode (padded).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlpost.algorithms.reduce import ReductionConfig, loss_weights
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.units import Item, Unit
from rlpost.training.packing.work import BY_TOKENS, ForwardWork
from rlpost.types import Episode, Group, Trajectory

ByNumber = dict[int, np.ndarray]  # number of a trajectory -> one value per sampled token


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """A trajectory of a batch of groups, and where its sampled tokens lie in (P, G, L).

    ``number`` is its place among all trajectories of the batch, in order, those left out included,
    so that results map back without a table. It is the number of its item.
    """

    number: int
    group: int  # P
    place: int  # G
    tokens: slice  # L
    episode: Episode
    trajectory: Trajectory

    @property
    def is_usable(self) -> bool:
        """Whether there is something to train on: a reward, and sampled tokens."""
        return self.episode.reward is not None and self.trajectory.num_sampled > 0


def numbered(groups: Sequence[Group]) -> Iterator[Numbered]:
    """Yield the trajectories of all episodes in order; an episode's tokens are laid end to end."""
    number = 0
    for p, group in enumerate(groups):
        for g, episode in enumerate(group.episodes):
            end = 0
            for trajectory in episode.trajectories:
                start, end = end, end + trajectory.num_sampled
                yield Numbered(
                    number=number,
                    group=p,
                    place=g,
                    tokens=slice(start, end),
                    episode=episode,
                    trajectory=trajectory,
                )
                number += 1


def unit_of(
    trajectory: Trajectory, *, number: int, family: int | None = None, name: str = ""
) -> Unit:
    """Return a trajectory as a unit whose scored tokens are those that were sampled.

    What follows the last of them is left out: nothing is predicted from it.
    """
    scored = np.zeros(trajectory.spans[-1].end, dtype=bool)
    for span in trajectory.spans:
        scored[span.start : span.end] = True
    item = Item(number=number, ids=trajectory.response_ids[: len(scored)], scored=scored)
    return Unit(prompt=trajectory.prompt_ids, items=(item,), family=family, name=name)


def by_number(groups: Sequence[Group], values_PGL: np.ndarray) -> ByNumber:
    """Return the tokens' values of every trajectory; with L = 1 an episode's tokens share one."""
    shared = values_PGL.shape[2] == 1
    return {
        each.number: np.repeat(values_PGL[each.group, each.place], each.trajectory.num_sampled)
        if shared
        else values_PGL[each.group, each.place, each.tokens]
        for each in numbered(groups)
    }


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a run packs."""

    num_ranks: int
    max_tokens: int
    share_prompts: bool = True
    work: ForwardWork = BY_TOKENS  # what ranks and micro-batches are balanced by

    def pack(self, chosen: Sequence[Numbered]) -> Packed:
        """Pack trajectories, each a unit; those of a group are a family."""
        units = [
            unit_of(
                each.trajectory,
                number=each.number,
                family=each.group,
                name=f"prompt {each.episode.uid}, sample {each.episode.sample}",
            )
            for each in chosen
        ]
        return pack(
            units,
            num_ranks=self.num_ranks,
            max_tokens=self.max_tokens,
            share_prompts=self.share_prompts,
            work=self.work,
        )


def pack_to_score(groups: Sequence[Group], packing: Packing) -> Packed:
    """Pack every usable trajectory, without columns."""
    return packing.pack([each for each in numbered(groups) if each.is_usable])


def pack_to_train(
    groups: Sequence[Group],
    advantages_PGL: np.ndarray,
    *,
    packing: Packing,
    reduction: ReductionConfig,
    oldest_version: int = 0,
) -> Packed:
    """Pack one optimizer batch with the columns of every policy loss.

    Args:
        groups: any sizes.
        advantages_PGL: of the episodes' tokens, or with L = 1 of the episodes; NaN means "do not
            train on this", and there must be nothing else beyond a group.
        packing: how.
        reduction: denominators; see algorithms/reduce.py.
        oldest_version: tokens of older weights are not trained on, but still counted in the
            denominators.

    Returns:
        The batch with ``advantages_R``, ``rollout_logprobs_R`` (nats) and ``weight_R``.
        Episodes without a reward, with a NaN advantage or without sampled tokens are left out,
        also of the denominators. It is empty if nothing remains (say, all groups have zero
        variance).

    Raises:
        UserError: a prompt with one of its responses is longer than a micro-batch.
    """
    assert not np.isinf(advantages_PGL).any()
    for group, rows_GL in zip(groups, advantages_PGL, strict=True):
        assert len(rows_GL) >= len(group.episodes), (group.prompt.uid, len(rows_GL))
        assert np.isnan(rows_GL[len(group.episodes) :]).all(), group.prompt.uid
    advantages = by_number(groups, advantages_PGL)
    chosen = [
        each
        for each in numbered(groups)
        if each.is_usable and not np.isnan(advantages[each.number]).any()
    ]
    return packing.pack(chosen).attach(
        weight_R=_weights(chosen, reduction, oldest_version),
        advantages_R=advantages,
        rollout_logprobs_R={
            each.number: np.asarray(each.trajectory.rollout_logprobs) for each in chosen
        },
    )


def _weights(
    chosen: Sequence[Numbered], reduction: ReductionConfig, oldest_version: int
) -> ByNumber:
    """Weigh tokens by their episodes."""
    episodes = {(each.group, each.place): each.episode for each in chosen}
    weights_S = loss_weights(
        [episode.num_sampled for episode in episodes.values()],
        config=reduction,
        kept_S=[not (reduction.mask_truncated and e.truncated) for e in episodes.values()],
        prompt_S=[group for group, _ in episodes],
    )
    weight_of = dict(zip(episodes, weights_S, strict=True))

    def weights(each: Numbered) -> np.ndarray:
        weight, spans = weight_of[each.group, each.place], each.trajectory.spans
        by_span = [weight if span.version >= oldest_version else 0.0 for span in spans]
        return np.repeat(by_span, [span.end - span.start for span in spans])

    return {each.number: weights(each) for each in chosen}
