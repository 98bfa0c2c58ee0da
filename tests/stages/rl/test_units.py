"""Packing laws of groups: every token once, within budget, and no split changes the loss."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from episodes import episode, sampled_places, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.algorithms.losses import ClipConfig, PolicyLossInputs, clip
from rlpost.algorithms.reduce import Aggregation, ReductionConfig
from rlpost.errors import UserError
from rlpost.stages.rl.units import Packing, numbered, pack_to_train
from rlpost.training.packing.pack import Packed
from rlpost.types import Group, Prompt

VOCAB = 11
TOKEN_MEAN = ReductionConfig()
REDUCTIONS = [
    TOKEN_MEAN,
    ReductionConfig(aggregation=Aggregation.sequence_mean),
    ReductionConfig(aggregation=Aggregation.constant, constant_tokens=9),
    ReductionConfig(mask_truncated=True),
]


def make_group(row, prompt_length, episodes, *, seed=0, truncated=()):
    """A group of random tokens.

    An episode is a number of sampled tokens, or says of each token whether it was sampled (s)
    or observed (.): ``"s.s/s"`` has two trajectories, the second with a prompt of its own.
    """
    rng = random.Random(f"{seed}:{row}")
    prompt_ids = tuple(rng.randrange(VOCAB) for _ in range(prompt_length))
    uid, made = f"0:{row}", []
    for sample, shape in enumerate(episodes):
        parts = ["s" * shape] if isinstance(shape, int) else shape.split("/")
        trajectories = [
            trajectory(
                [rng.randrange(VOCAB) for _ in part],
                prompt_ids=(*prompt_ids, number)[: prompt_length + number],
                versions=[0 if token == "s" else None for token in part],
                logprobs=[-3 * rng.random() for _ in range(part.count("s"))],
            )
            for number, part in enumerate(parts)
        ]
        made.append(
            episode(
                *trajectories,
                uid=uid,
                sample=sample,
                finish_reason="length" if sample in truncated else "stop",
                reward=float(rng.random() < 0.5),
            )
        )
    return Group(prompt=Prompt(uid=uid, token_ids=prompt_ids, text=""), episodes=tuple(made))


def make_advantages(groups, seed=0):
    rng = random.Random(seed)
    return [[rng.uniform(-2, 2) for _ in group.episodes] for group in groups]


def pack(groups, advantages, *, reduction, oldest_version=0, **packing) -> Packed:
    return pack_to_train(
        groups,
        as_matrix(advantages)[..., None],
        packing=Packing(**packing),
        reduction=reduction,
        oldest_version=oldest_version,
    )


def as_matrix(rows):
    """Rows of different length as a matrix with NaN behind their ends."""
    matrix = np.full((len(rows), max(map(len, rows), default=0)), math.nan)
    for place, row in enumerate(rows):
        matrix[place, : len(row)] = row
    return matrix


def all_batches(packed):
    return [batch for rank_batches in packed.batches for batch in rank_batches]


def only(*args, **kwargs):
    """The batches of the only rank."""
    (batches,) = pack(*args, **kwargs).batches
    return batches


def numbers_of(batch):
    """The number of each token's trajectory."""
    return batch.number_I[batch.item_R]


@st.composite
def batches_of_groups(draw):
    several = st.lists(st.text("s.", max_size=8), min_size=1, max_size=3).map("/".join)
    episodes = st.lists(st.integers(0, 9) | several, max_size=5)
    shapes = draw(st.lists(st.tuples(st.integers(1, 5), episodes), max_size=6))
    groups = [
        make_group(row, prompt, episodes, truncated={1})
        for row, (prompt, episodes) in enumerate(shapes)
    ]
    advantages = make_advantages(groups)
    for row in advantages:
        for i in range(len(row)):
            if draw(st.integers(0, 4)) == 0:
                row[i] = math.nan
    return groups, advantages


layouts = st.fixed_dictionaries(
    {
        "num_ranks": st.integers(1, 5),
        "max_tokens": st.integers(15, 60),
        "share_prompts": st.booleans(),
    }
)


# ---- layout -------------------------------------------------------------------------------


def test_one_shared_block_by_hand():
    group = make_group(0, 2, [2, 1])
    first, second = group.episodes
    prompt_ids = group.prompt.token_ids
    (batch,) = only([group], [[1.0, -1.0]], num_ranks=1, max_tokens=100, reduction=TOKEN_MEAN)
    assert tuple(batch.token_ids_T) == prompt_ids + first.response_ids + second.response_ids
    assert batch.position_ids_T.tolist() == [0, 1, 2, 3, 2]
    assert batch.read_R.tolist() == [1, 2, 1]
    assert tuple(batch.target_R) == first.response_ids + second.response_ids
    assert numbers_of(batch).tolist() == [0, 0, 1]
    assert batch.columns["advantages_R"].tolist() == [1, 1, -1]
    assert batch.columns["weight_R"].tolist() == pytest.approx([1 / 3] * 3)
    assert [(b.prompt, b.responses) for b in batch.blocks] == [((0, 2), ((2, 4), (4, 5)))]
    assert {a.dtype for a in (batch.token_ids_T, batch.position_ids_T, batch.read_R)} == {
        np.dtype(np.int64)
    }
    assert (
        batch.columns["weight_R"].dtype == batch.columns["rollout_logprobs_R"].dtype == np.float32
    )


def test_without_sharing_each_response_has_its_own_prompt():
    group = make_group(0, 2, [2, 1])
    (batch,) = only(
        [group],
        [[1.0, -1.0]],
        num_ranks=1,
        max_tokens=100,
        reduction=TOKEN_MEAN,
        share_prompts=False,
    )
    assert batch.num_tokens == 7
    assert batch.position_ids_T.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert batch.read_R.tolist() == [1, 2, 5]


def test_a_group_over_budget_repeats_its_prompt():
    packed = pack(
        [make_group(0, 4, [5, 5, 5])],
        [[1.0, -1.0, 0.5]],
        num_ranks=1,
        max_tokens=14,
        reduction=TOKEN_MEAN,
    )
    assert sorted(batch.num_tokens for batch in all_batches(packed)) == [9, 14]


# ---- laws ---------------------------------------------------------------------------------


@settings(max_examples=150)
@given(data=batches_of_groups(), layout=layouts)
def test_packing_laws(data, layout):
    groups, advantages = data
    packed = pack(groups, advantages, reduction=TOKEN_MEAN, **layout)
    assert len(packed.batches) == layout["num_ranks"]
    assert len({len(rank_batches) for rank_batches in packed.batches}) == 1

    expected = {
        each.number: (each.trajectory, advantages[each.group][each.place])
        for each in numbered(groups)
        if not math.isnan(advantages[each.group][each.place]) and each.trajectory.spans
    }
    seen = []
    for batch in all_batches(packed):
        assert batch.num_tokens <= layout["max_tokens"]
        if batch.is_dummy:
            assert batch.num_tokens == 2
            assert batch.columns["weight_R"].tolist() == [0]
            continue
        covered, places = [], []
        for block in batch.blocks:
            covered += range(*block.prompt)
            for start, end in block.responses:
                covered += range(start, end)
                places.append((block.prompt, start, end))
        assert covered == list(range(batch.num_tokens))
        for number, (prompt, start, end) in zip(batch.number_I.tolist(), places, strict=True):
            row, advantage = expected[number]
            sampled = sampled_places(row)
            mine, length = numbers_of(batch) == number, prompt[1] - prompt[0]
            assert tuple(batch.token_ids_T[slice(*prompt)]) == row.prompt_ids
            read = row.response_ids[: end - start]  # observations too
            assert tuple(batch.token_ids_T[start:end]) == read and end - start > sampled[-1]
            assert batch.position_ids_T[start:end].tolist() == [
                *range(length, length + end - start)
            ]
            assert batch.target_R[mine].tolist() == [row.response_ids[i] for i in sampled]
            before = [start + i - 1 if i else prompt[1] - 1 for i in sampled]
            assert batch.read_R[mine].tolist() == before
            assert batch.columns["rollout_logprobs_R"][mine] == pytest.approx(row.rollout_logprobs)
            assert batch.columns["advantages_R"][mine] == pytest.approx(advantage)
            seen.append(number)
    assert sorted(seen) == sorted(expected)
    total = sum(batch.columns["weight_R"].sum(dtype=np.float64) for batch in all_batches(packed))
    assert total == pytest.approx(1.0 if expected else 0.0, abs=1e-6)
    if not expected:
        assert packed.is_empty
        assert packed.batches == [[] for _ in range(layout["num_ranks"])]


@given(data=batches_of_groups(), layout=layouts)
@settings(max_examples=30)
def test_same_input_same_output(data, layout):
    first, second = (all_batches(pack(*data, reduction=TOKEN_MEAN, **layout)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.token_ids_T.tolist() == b.token_ids_T.tolist()
        assert numbers_of(a).tolist() == numbers_of(b).tolist()


def bigram_loss(packed, logits, *, local_mean=False):
    """Loss of the packed batch under a model that sees one token: tests predictors too."""
    total = 0 * logits.sum()  # connected to the graph even when nothing is trained
    for batch in all_batches(packed):
        inputs = torch.from_numpy(batch.token_ids_T)[torch.from_numpy(batch.read_R)]
        targets = torch.from_numpy(batch.target_R)
        result = clip(
            PolicyLossInputs(
                policy_logprobs_R=logits.log_softmax(-1)[inputs, targets],
                anchor_logprobs_R=torch.from_numpy(batch.columns["rollout_logprobs_R"]).double(),
                advantages_R=torch.from_numpy(batch.columns["advantages_R"]).double(),
                item_R=torch.from_numpy(batch.item_R),
            ),
            ClipConfig(),
        )
        weights = torch.from_numpy(batch.columns["weight_R"]).double()
        if local_mean:
            weights = torch.full_like(weights, 1 / len(weights) / len(all_batches(packed)))
        total = total + (weights * result.values_R).sum()
    return total


def reference_loss(groups, advantages, logits, reduction):
    """The same loss straight from the episodes: no packing, no shared code."""
    kept = [
        (e, a)
        for g, row in zip(groups, advantages, strict=True)
        for e, a in zip(g.episodes, row, strict=True)
        if not math.isnan(a) and e.num_sampled
    ]
    num_tokens = sum(e.num_sampled for e, _ in kept)
    table = logits.log_softmax(-1)
    total = 0 * logits.sum()  # connected to the graph even when nothing is trained
    for attempt, advantage in kept:
        if reduction.mask_truncated and attempt.truncated:
            continue
        losses = []
        for part in attempt.trajectories:
            ids = (*part.prompt_ids, *part.response_ids)
            places = [len(part.prompt_ids) + place for place in sampled_places(part)]
            for place, rollout in zip(places, part.rollout_logprobs, strict=True):
                ratio = (table[ids[place - 1], ids[place]] - rollout).exp()
                losses.append(-torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage))
        scale = {
            Aggregation.token_mean: num_tokens,
            Aggregation.sequence_mean: len(kept) * len(losses),
            Aggregation.constant: len(kept) * 9,
        }[reduction.aggregation]
        total = total + sum(losses) / scale
    return total


def value_and_gradient(function, *args, **kwargs):
    logits = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1)).double()
    logits.requires_grad_()
    value = function(*args, logits, **kwargs)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.item(), gradient


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=["token", "sequence", "constant", "masked"])
@settings(max_examples=25)
@given(data=batches_of_groups(), layout=layouts, shuffle=st.randoms(use_true_random=False))
def test_loss_and_gradient_equal_the_unpacked_reference(reduction, data, layout, shuffle):
    groups, advantages = data

    def reference(logits):
        return reference_loss(groups, advantages, logits, reduction)

    expected = value_and_gradient(reference)
    order = list(range(len(groups)))
    shuffle.shuffle(order)
    packed = pack(
        [groups[i] for i in order], [advantages[i] for i in order], reduction=reduction, **layout
    )
    value, gradient = value_and_gradient(bigram_loss, packed)
    assert value == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    assert torch.allclose(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_a_local_mean_depends_on_the_split():
    """Negative control: the bug that the global denominators exist to prevent."""
    groups = [make_group(0, 2, [9, 1]), make_group(1, 3, [2, 2])]
    advantages = make_advantages(groups)
    for local_mean in (True, False):
        gradients = []
        for max_tokens in (13, 100):
            packed = pack(
                groups, advantages, num_ranks=1, max_tokens=max_tokens, reduction=TOKEN_MEAN
            )
            gradients.append(value_and_gradient(bigram_loss, packed, local_mean=local_mean)[1])
        assert torch.allclose(*gradients, atol=1e-6) is not local_mean


# ---- selection ----------------------------------------------------------------------------


def test_missing_rewards_and_nan_advantages_are_left_out_of_denominators():
    group = make_group(0, 2, [1, 3, 2])
    first, second, third = group.episodes
    group = replace(group, episodes=(first, replace(second, reward=None), third))
    (batch,) = only(
        [group], [[1.0, 1.0, math.nan]], num_ranks=1, max_tokens=50, reduction=TOKEN_MEAN
    )
    assert numbers_of(batch).tolist() == [0]
    assert batch.columns["weight_R"].tolist() == [1.0]


def test_truncated_responses_weigh_nothing_but_stay_in_the_denominator():
    group = make_group(0, 2, [1, 3], truncated={1})
    (batch,) = only(
        [group],
        [[1.0, -1.0]],
        num_ranks=1,
        max_tokens=50,
        reduction=ReductionConfig(mask_truncated=True),
    )
    assert batch.columns["weight_R"].tolist() == [0.25, 0, 0, 0]


def test_what_was_observed_is_read_and_has_no_place_in_the_loss():
    group = make_group(0, 2, ["s..s.", 3])
    (batch,) = only([group], [[1.0, -1.0]], num_ranks=1, max_tokens=50, reduction=TOKEN_MEAN)
    first, second = (e.response_ids for e in group.episodes)
    assert batch.columns["weight_R"].tolist() == pytest.approx([0.2] * 5)
    assert batch.target_R.tolist() == [first[0], first[3], *second]
    read = (*group.prompt.token_ids, *first[:4], *second)  # nothing is predicted behind the fourth
    assert tuple(batch.token_ids_T) == read
    assert batch.read_R.tolist()[:2] == [1, 4]


def test_an_episode_of_two_trajectories_weighs_as_one():
    group = make_group(0, 2, ["ss/s", 1], truncated={0})
    for reduction, weights in (
        (TOKEN_MEAN, [1 / 4] * 4),
        (REDUCTIONS[1], [1 / 6] * 3 + [1 / 2]),
        (REDUCTIONS[2], [1 / 18] * 4),
        (REDUCTIONS[3], [0, 0, 0, 1 / 4]),
    ):
        packed = pack([group], [[1.0, -1.0]], num_ranks=1, max_tokens=50, reduction=reduction)
        found = packed.column("weight_R")
        assert [*found[0], *found[1], *found[2]] == pytest.approx(weights)


def test_trajectories_of_a_group_with_equal_prompts_share_one_block():
    group = make_group(0, 4, ["s/ss", "s/ss"])
    (batch,) = only([group], [[1.0, -1.0]], num_ranks=1, max_tokens=50, reduction=TOKEN_MEAN)
    assert [len(block.responses) for block in batch.blocks] == [2, 2]
    assert batch.num_tokens == (4 + 1 + 1) + (5 + 2 + 2)


def test_tokens_of_weights_that_are_too_old_weigh_nothing_but_stay_in_the_denominator():
    aged = trajectory([1, 2, 3], prompt_ids=[4, 5], versions=[1, 2, 3])
    group = replace(make_group(0, 2, [1]), episodes=(episode(aged, reward=1.0),))
    packed = pack(
        [group], [[1.0]], num_ranks=1, max_tokens=50, reduction=TOKEN_MEAN, oldest_version=2
    )
    assert packed.column("weight_R")[0] == pytest.approx([0, 1 / 3, 1 / 3])


def test_a_padded_matrix_of_advantages_is_accepted_and_a_wrong_one_is_not():
    groups = [make_group(0, 2, [2]), make_group(1, 2, [2, 2])]
    padded = np.array([[1.0, math.nan], [1.0, -1.0]])
    packed = pack(groups, padded, num_ranks=1, max_tokens=50, reduction=TOKEN_MEAN)
    assert sum(batch.target_R.size for batch in all_batches(packed)) == 6
    padded[0, 1] = 0.5
    with pytest.raises(AssertionError):
        pack(groups, padded, num_ranks=1, max_tokens=50, reduction=TOKEN_MEAN)


def test_nothing_to_train_gives_empty_ranks():
    groups = [make_group(0, 2, [2, 2])]
    packed = pack(groups, [[math.nan] * 2], num_ranks=3, max_tokens=50, reduction=TOKEN_MEAN)
    assert packed.is_empty and packed.batches == [[], [], []]


@pytest.mark.parametrize("share_prompts", [True, False])
def test_a_sequence_over_budget_is_named_with_the_setting(share_prompts):
    group = make_group(7, 4, [3, 8])
    with pytest.raises(
        UserError,
        match=r"trainer\.max_tokens_per_micro_batch .* got 11: prompt 0:7, sample 1 has "
        r"4 \+ 8 tokens; raise it to at least 12",
    ):
        pack(
            [group],
            [[1.0, 1.0]],
            num_ranks=1,
            max_tokens=11,
            reduction=TOKEN_MEAN,
            share_prompts=share_prompts,
        )


# ---- balance ------------------------------------------------------------------------------


def rank_tokens(packed):
    return [sum(batch.num_tokens for batch in rank_batches) for rank_batches in packed.batches]


def test_ranks_get_nearly_equal_tokens():
    rng = random.Random(3)
    groups = [make_group(r, 8, [rng.randrange(5, 40) for _ in range(8)]) for r in range(24)]
    packed = pack(
        groups, make_advantages(groups), num_ranks=4, max_tokens=512, reduction=TOKEN_MEAN
    )
    loads = rank_tokens(packed)
    assert max(loads) / min(loads) < 1.1
    assert not any(batch.is_dummy for batch in all_batches(packed))


def test_fewer_groups_than_ranks_are_split_so_that_no_rank_idles():
    groups = [make_group(0, 2, [10] * 8)]
    packed = pack(
        groups, make_advantages(groups), num_ranks=4, max_tokens=512, reduction=TOKEN_MEAN
    )
    assert rank_tokens(packed) == [22, 22, 22, 22]


def test_fewer_responses_than_ranks_leaves_dummies():
    groups = [make_group(0, 2, [10, 10])]
    packed = pack(
        groups, make_advantages(groups), num_ranks=3, max_tokens=512, reduction=TOKEN_MEAN
    )
    assert rank_tokens(packed) == [12, 12, 2]
    assert [batch.is_dummy for batch in all_batches(packed)] == [False, False, True]


# ---- results back -------------------------------------------------------------------------


@settings(max_examples=40)
@given(data=batches_of_groups(), layout=layouts, other=layouts)
def test_values_travel_between_splits_by_sequence(data, layout, other):
    groups, advantages = data
    trajectories = [each.trajectory for each in numbered(groups)]
    scored = pack(groups, advantages, reduction=TOKEN_MEAN, **other)
    by_sequence = scored.by_item(
        [[b.columns["rollout_logprobs_R"] - 1 for b in mine] for mine in scored.batches]
    )
    for number, values in by_sequence.items():
        assert values + 1 == pytest.approx(trajectories[number].rollout_logprobs, abs=1e-6)
    trained = pack(groups, advantages, reduction=TOKEN_MEAN, **layout)
    for batch in all_batches(trained.attach(ref_logprobs_R=by_sequence)):
        assert batch.columns["ref_logprobs_R"].dtype == np.float32
        if not batch.is_dummy:
            assert batch.columns["ref_logprobs_R"] + 1 == pytest.approx(
                batch.columns["rollout_logprobs_R"], abs=1e-6
            )


def test_values_of_the_wrong_shape_are_our_bug():
    packed = pack(
        [make_group(0, 2, [3])], [[1.0]], num_ranks=1, max_tokens=50, reduction=TOKEN_MEAN
    )
    with pytest.raises(AssertionError):
        packed.by_item([[np.zeros(2)]])
