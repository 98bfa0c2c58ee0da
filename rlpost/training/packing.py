"""Groups with advantages -> packed micro-batches for every rank.

Owns the distribution of responses over blocks, micro-batches and ranks. Refuses to own
advantages and denominators (algorithms/). Invariants: every trained token is in exactly
one micro-batch; no micro-batch exceeds the token budget; every rank gets equally many
micro-batches; the weights are global, so the split changes no loss and no gradient; the
same input gives the same output. numpy only.

Sequence numbers are the trajectories' positions in ``[t for g in groups for t in
g.trajectories]``, those left out included, so that results map back without a table.

Legend: T packed tokens, R response tokens of one micro-batch, S sequences, P groups.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlpost.algorithms.reduce import ReductionConfig, loss_weights
from rlpost.errors import UserError
from rlpost.training.batch import Block, TokenBatch
from rlpost.training.bins import best_fit_decreasing, distribute, spread
from rlpost.types import Group, Trajectory

PackedBatches = list[list[TokenBatch]]  # [rank][micro-batch]


@dataclass(frozen=True, kw_only=True)
class _Sequence:
    """One response to train on."""

    number: int
    trajectory: Trajectory
    advantage_R: np.ndarray
    weight_R: np.ndarray

    @property
    def num_response_tokens(self) -> int:
        return len(self.trajectory.response_ids)


_Draft = list[_Sequence]  # responses of one block; they share one prompt


def pack(
    groups: Sequence[Group],
    advantages: Sequence[Sequence[float]] | np.ndarray,
    *,
    num_ranks: int,
    max_tokens: int,
    reduction: ReductionConfig,
    share_prompts: bool = True,
) -> PackedBatches:
    """Pack one optimizer batch.

    Args:
        groups: P groups, any sizes.
        advantages: one row per group, one value per trajectory, which may be an array over
            its tokens (padded at the end); NaN means "do not train on this". Longer rows
            must be NaN beyond the group (a padded matrix).
        num_ranks: data-parallel ranks.
        max_tokens: token budget of a micro-batch, prompts included.
        reduction: denominators; see algorithms/reduce.py.
        share_prompts: compute a prompt once for all responses in its block; otherwise each
            response carries its own copy.

    Returns:
        Micro-batches indexed [rank][micro-batch]. Trajectories without a reward, with a NaN
        advantage or without tokens are left out, also of the denominators. If nothing
        remains (say, all groups have zero variance) every rank's list is empty: the caller
        skips the optimizer step.

    Raises:
        UserError: a prompt with one of its responses is longer than ``max_tokens``.
    """
    sequences_P = _trainable(groups, advantages, reduction)
    drafts: list[_Draft] = []
    for sequences in sequences_P:
        if share_prompts:
            drafts += _split_to_budget(sequences, max_tokens)
        else:
            drafts += [_checked([sequence], max_tokens) for sequence in sequences]
    drafts = _split_for_ranks(drafts, num_ranks)
    if not drafts:
        return [[] for _ in range(num_ranks)]
    return _distribute(drafts, num_ranks=num_ranks, max_tokens=max_tokens)


def unpack(batches: PackedBatches, values: Sequence[Sequence[np.ndarray]]) -> dict[int, np.ndarray]:
    """Regroup per-token results by sequence number.

    Args:
        batches: what ``pack`` returned.
        values: one (R,) array per micro-batch, in the same order.

    Returns:
        Sequence number -> values of its response tokens, in order. Dummies are skipped.
    """
    by_sequence: dict[int, np.ndarray] = {}
    for rank_batches, rank_values in zip(batches, values, strict=True):
        for batch, values_R in zip(rank_batches, rank_values, strict=True):
            assert values_R.shape == batch.sequence_R.shape, (values_R.shape, batch)
            if batch.is_dummy:
                continue
            for start, end in _runs(batch.sequence_R):
                by_sequence[int(batch.sequence_R[start])] = values_R[start:end]
    return by_sequence


def attach(batches: PackedBatches, **fields: Mapping[int, np.ndarray] | None) -> PackedBatches:
    """Return copies that carry more per-token fields of ``TokenBatch``.

    Args:
        batches: what ``pack`` returned.
        fields: field -> values of each sequence's response tokens, by sequence number (as
            ``unpack`` gives them, so they may come from another split); None attaches
            nothing. Dummies get zeros.

    Example: ``attach(batches, ref_logprobs_R=unpack(scored, values))``
    """
    present = {name: values for name, values in fields.items() if values is not None}

    def one(batch: TokenBatch) -> TokenBatch:
        return replace(batch, **{n: _laid_out(batch, values) for n, values in present.items()})

    return [[one(batch) for batch in rank_batches] for rank_batches in batches]


def _laid_out(batch: TokenBatch, values: Mapping[int, np.ndarray]) -> np.ndarray:
    """Concatenate the sequences' values in the order of the batch's response tokens."""
    dtype = np.asarray(next(iter(values.values()))).dtype
    dtype = np.dtype(np.bool_) if dtype == np.bool_ else np.dtype(np.float32)
    if batch.is_dummy:
        return np.zeros(len(batch.target_R), dtype=dtype)
    numbers = [int(batch.sequence_R[start]) for start, _ in _runs(batch.sequence_R)]
    return np.concatenate([values[number] for number in numbers]).astype(dtype)


def _trainable(
    groups: Sequence[Group],
    advantages: Sequence[Sequence[float]] | np.ndarray,
    reduction: ReductionConfig,
) -> list[list[_Sequence]]:
    """Select what is trained on and weigh it over the whole batch; one list per group."""
    chosen: list[tuple[int, int, Trajectory, np.ndarray]] = []
    number = 0
    for p, (group, row) in enumerate(zip(groups, advantages, strict=True)):
        assert len(row) >= len(group.trajectories), (group.prompt.uid, len(row))
        assert np.isnan(np.asarray(row[len(group.trajectories) :], dtype=float)).all(), row
        for trajectory, value in zip(group.trajectories, row, strict=False):
            advantage_R = _per_token(value, len(trajectory.response_ids))
            assert not np.isinf(advantage_R).any(), (trajectory.uid, trajectory.sample)
            usable = trajectory.reward is not None and not np.isnan(advantage_R).any()
            if usable and trajectory.response_ids:
                chosen.append((p, number, trajectory, advantage_R))
            number += 1
    weights_S = loss_weights(
        [sampled_tokens(trajectory) for _, _, trajectory, _ in chosen],
        config=reduction,
        kept_S=[
            not (reduction.mask_truncated and trajectory.truncated)
            for _, _, trajectory, _ in chosen
        ],
        prompt_S=[p for p, _, _, _ in chosen],
    )
    sequences_P: list[list[_Sequence]] = [[] for _ in groups]
    for (p, number, trajectory, advantage_R), weight_R in zip(chosen, weights_S, strict=True):
        weight_R[: trajectory.num_stale] = 0.0  # still counted in the denominators
        sequence = _Sequence(
            number=number, trajectory=trajectory, advantage_R=advantage_R, weight_R=weight_R
        )
        sequences_P[p].append(sequence)
    return sequences_P


def sampled_tokens(trajectory: Trajectory) -> np.ndarray:
    """Which response tokens (R,) the policy sampled, and were not written into the response."""
    sampled_R = np.ones(len(trajectory.response_ids), dtype=bool)
    sampled_R[slice(*trajectory.written)] = False
    return sampled_R


def _per_token(value: float | np.ndarray, length: int) -> np.ndarray:
    """One number for all tokens, or the tokens' own without their padding."""
    values = np.atleast_1d(np.asarray(value, dtype=float))
    return np.repeat(values, length) if len(values) == 1 else values[:length]


def _size(draft: _Draft) -> int:
    """Tokens of a block: the shared prompt once, then every response."""
    prompt = len(draft[0].trajectory.prompt_ids)
    return prompt + sum(sequence.num_response_tokens for sequence in draft)


def _checked(draft: _Draft, max_tokens: int) -> _Draft:
    if _size(draft) > max_tokens:
        trajectory = draft[0].trajectory
        raise UserError(
            f"trainer.max_tokens_per_micro_batch must hold a prompt and one response, got "
            f"{max_tokens}: prompt {trajectory.uid}, sample {trajectory.sample} has "
            f"{len(trajectory.prompt_ids)} + {len(trajectory.response_ids)} tokens; raise it "
            f"to at least {_size(draft)} or lower the response limit"
        )
    return draft


def _split_to_budget(sequences: list[_Sequence], max_tokens: int) -> list[_Draft]:
    """One block if the group fits, else several, each repeating the prompt."""
    for sequence in sequences:
        _checked([sequence], max_tokens)
    if not sequences:
        return []
    room = max_tokens - len(sequences[0].trajectory.prompt_ids)
    sizes = [sequence.num_response_tokens for sequence in sequences]
    bins = best_fit_decreasing(sizes, capacity=room)
    return [[sequences[index] for index in sorted(indices)] for indices in bins]


def _split_for_ranks(drafts: list[_Draft], num_ranks: int) -> list[_Draft]:
    """Halve blocks that are larger than one rank's fair share; else ranks would idle."""
    drafts = list(drafts)
    while num_ranks > 1:
        fair_share = sum(map(_size, drafts)) / num_ranks
        heavy = [
            d for d, draft in enumerate(drafts) if len(draft) > 1 and _size(draft) > fair_share
        ]
        if not heavy:
            break
        for d in reversed(heavy):
            draft = drafts[d]
            sizes = [sequence.num_response_tokens for sequence in draft]
            halves = spread(sizes, num_bins=2, capacity=sum(sizes))
            assert halves is not None
            drafts[d : d + 1] = [[draft[index] for index in sorted(half)] for half in halves]
    return drafts


def _distribute(drafts: list[_Draft], *, num_ranks: int, max_tokens: int) -> PackedBatches:
    """Blocks -> micro-batches -> ranks, with dummies where a rank has one fewer."""
    sizes = [_size(draft) for draft in drafts]
    bins = best_fit_decreasing(sizes, capacity=max_tokens)
    num_rounds = -(-len(bins) // num_ranks)
    # The fewest rounds are known now; even loads within them beat full bins and dummies.
    bins = spread(sizes, num_bins=num_rounds * num_ranks, capacity=max_tokens) or bins
    bins = [sorted(indices) for indices in bins if indices]
    bins_of_rank = distribute(
        [sum(sizes[i] for i in indices) for indices in bins], num_ranks=num_ranks
    )
    num_rounds = max(len(mine) for mine in bins_of_rank)
    result: PackedBatches = []
    for mine in bins_of_rank:
        batches = [_token_batch([drafts[i] for i in bins[index]]) for index in mine]
        result.append(batches + [_dummy() for _ in range(num_rounds - len(batches))])
    return result


def _token_batch(drafts: list[_Draft]) -> TokenBatch:
    token_ids: list[int] = []
    positions: list[np.ndarray] = []
    predictors: list[np.ndarray] = []
    blocks: list[Block] = []
    for draft in drafts:
        prompt_ids = draft[0].trajectory.prompt_ids
        assert prompt_ids, "a prompt needs a token to predict the first response token from"
        start, end = len(token_ids), len(token_ids) + len(prompt_ids)
        token_ids += prompt_ids
        positions.append(np.arange(len(prompt_ids)))
        responses: list[tuple[int, int]] = []
        for sequence in draft:
            assert sequence.trajectory.prompt_ids == prompt_ids, sequence.trajectory.uid
            first, length = len(token_ids), sequence.num_response_tokens
            token_ids += sequence.trajectory.response_ids
            positions.append(len(prompt_ids) + np.arange(length))
            predictors.append(np.concatenate([[end - 1], np.arange(first, first + length - 1)]))
            responses.append((first, first + length))
        blocks.append(Block(prompt=(start, end), responses=tuple(responses)))
    sequences = [sequence for draft in drafts for sequence in draft]
    lengths = [sequence.num_response_tokens for sequence in sequences]
    trajectories = [sequence.trajectory for sequence in sequences]
    return TokenBatch(
        token_ids_T=np.array(token_ids, dtype=np.int64),
        position_ids_T=np.concatenate(positions).astype(np.int64),
        blocks=tuple(blocks),
        predictor_R=np.concatenate(predictors).astype(np.int64),
        target_R=np.concatenate([t.response_ids for t in trajectories]).astype(np.int64),
        sequence_R=np.repeat([s.number for s in sequences], lengths).astype(np.int64),
        rollout_logprobs_R=np.concatenate([t.rollout_logprobs for t in trajectories]).astype(
            np.float32
        ),
        advantages_R=np.concatenate([s.advantage_R for s in sequences]).astype(np.float32),
        loss_weight_R=np.concatenate([s.weight_R for s in sequences]).astype(np.float32),
    )


def _dummy() -> TokenBatch:
    """Two tokens of weight 0: keeps a rank in step with the others' collectives."""
    return TokenBatch(
        token_ids_T=np.zeros(2, dtype=np.int64),
        position_ids_T=np.arange(2, dtype=np.int64),
        blocks=(Block(prompt=(0, 1), responses=((1, 2),)),),
        predictor_R=np.zeros(1, dtype=np.int64),
        target_R=np.zeros(1, dtype=np.int64),
        sequence_R=np.full(1, -1, dtype=np.int64),
        rollout_logprobs_R=np.zeros(1, dtype=np.float32),
        advantages_R=np.zeros(1, dtype=np.float32),
        loss_weight_R=np.zeros(1, dtype=np.float32),
        is_dummy=True,
    )


def _runs(sequence_R: np.ndarray) -> list[tuple[int, int]]:
    """Return ``[start, end)`` of each sequence; a sequence's tokens are contiguous."""
    cuts = np.flatnonzero(np.diff(sequence_R)) + 1
    edges = [0, *cuts.tolist(), len(sequence_R)]
    return list(itertools.pairwise(edges))
