"""Every registered estimator against plain Python, one sample and one token at a time.

The references know nothing of tensors: a batch is a list of groups, a group a list of
``Sample``. Laws that hold for all estimators are checked over the registry as well.
"""

import itertools
import math
import random
import statistics
from dataclasses import dataclass, replace

import pytest
import torch

from rlpost.algorithms.advantages import (
    AdvantageInputs,
    GAEConfig,
    GDPOConfig,
    GRPOConfig,
    PassAtKConfig,
    ReinforcePPConfig,
    estimators,
    rewards_matrix,
)

WEIGHTS = (1.0, 0.25, 2.0)
MAX_LENGTH = 5


@dataclass(frozen=True)
class Sample:
    reward: float | None
    length: int
    components: tuple[float | None, ...]
    greedy: float | None  # of the prompt
    token_rewards: tuple[float, ...] | None  # one per token
    values: tuple[float, ...]


def random_batch(seed, *, binary=False, token_rewards=False):
    rng = random.Random(seed)

    def draw():
        if rng.random() < 0.15:
            return None
        return float(rng.random() < 0.4) if binary else rng.uniform(-2, 2)

    def tokens(length):
        return tuple(rng.uniform(-1, 1) for _ in range(length))

    batch = []
    for _ in range(rng.randrange(1, 6)):
        greedy, group = draw(), []
        for _ in range(rng.randrange(0, 7)):
            length = rng.randrange(0, MAX_LENGTH + 1)
            group.append(
                Sample(
                    reward=draw(),
                    length=length,
                    components=tuple(draw() for _ in WEIGHTS),
                    greedy=greedy,
                    token_rewards=tokens(length) if token_rewards else None,
                    values=tokens(length),
                )
            )
        batch.append(group)
    return batch


# References: batch, config -> per group, per sample, list of per-token advantages.


def usable(group):
    return [s for s in group if s.reward is not None]


def whitened(rows):
    """``rows``: per group, per sample, per token; None is left out."""
    numbers = [x for group in rows for sample in group for x in sample if x is not None]
    if not numbers:
        return rows
    mean = math.fsum(numbers) / len(numbers)
    root = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / len(numbers) + 1e-8)
    return [[[x if x is None else (x - mean) / root for x in s] for s in group] for group in rows]


def responses(one):
    """Lift a reference of (sample, usable samples of its group) to a batch."""

    def reference(batch, config):
        result = []
        for group in batch:
            others = usable(group)
            enough = len(others) >= config.min_group or not config.needs_group
            result.append(
                [
                    [one(s, others, config) if s.reward is not None and enough else None] * s.length
                    for s in group
                ]
            )
        return result

    return reference


def grpo(sample, group, config):
    rewards = [s.reward for s in group]
    centred = sample.reward - statistics.fmean(rewards)
    if not config.normalize_std:
        return centred
    return centred / (statistics.stdev(rewards) + config.epsilon)


def dr_grpo(sample, group, config):
    return sample.reward - statistics.fmean([s.reward for s in group])


def rloo(sample, group, config):
    others = [s.reward for s in group if s is not sample]
    return sample.reward - sum(others) / len(others)


def opo(sample, group, config):
    num_tokens = sum(s.length for s in group)
    if num_tokens == 0:
        return None
    return sample.reward - sum(s.length * s.reward for s in group) / num_tokens


def remax(sample, group, config):
    return None if sample.greedy is None else sample.reward - sample.greedy


def constant(sample, group, config):
    return 1.0


def pass_at_k(batch, config):
    result = []
    for group in batch:
        judged = usable(group)
        if len(judged) < max(config.k, 2):
            result.append([[None] * s.length for s in group])
            continue
        best = {
            subset: max(judged[i].reward for i in subset)
            for subset in itertools.combinations(range(len(judged)), config.k)
        }
        mean, deviation = statistics.fmean(best.values()), statistics.pstdev(best.values())
        rows = []
        for sample in group:
            value = None
            if sample.reward is not None:
                mine = judged.index(sample)
                own = statistics.fmean(b for subset, b in best.items() if mine in subset)
                value = 0.0 if len(set(best.values())) == 1 else (own - mean) / deviation
            rows.append([value] * sample.length)
        result.append(rows)
    return result


def gdpo(batch, config):
    rows = []
    for group in batch:
        judged = [s for s in usable(group) if None not in s.components]
        sums = []
        for sample in group:
            if sample not in judged or len(judged) < 2:
                sums.append(None)
                continue
            total = 0.0
            for k, weight in enumerate(WEIGHTS):
                column = [s.components[k] for s in judged]
                centred = sample.components[k] - statistics.fmean(column)
                total += weight * centred / (statistics.stdev(column) + config.epsilon)
            sums.append(total)
        rows.append([[x] for x in sums])  # one number per response, whatever its length
    if config.batch_normalize:
        rows = whitened(rows)
    return [
        [row * s.length for row, s in zip(group_rows, group, strict=True)]
        for group_rows, group in zip(rows, batch, strict=True)
    ]


def paid(sample, outcome):
    """Rewards of the tokens of one sample."""
    rewards = list(sample.token_rewards or [0.0] * sample.length)
    if rewards:
        rewards[-1] += outcome
    return rewards


def returns(rewards, gamma):
    return [
        math.fsum(gamma**later * r for later, r in enumerate(rewards[t:]))
        for t in range(len(rewards))
    ]


def plain_gae(sample, config):
    """The definition: a sum of all later deltas for every token."""
    if sample.reward is None:
        return [None] * sample.length
    rewards, values = paid(sample, sample.reward), [*sample.values, 0.0]
    deltas = [r + config.gamma * values[t + 1] - values[t] for t, r in enumerate(rewards)]
    return returns(deltas, config.gamma * config.lam)


def gae(batch, config):
    rows = [[plain_gae(s, config) for s in group] for group in batch]
    return whitened(rows) if config.whiten else rows


def reinforce_pp(batch, config):
    return whitened(
        [
            [
                [None] * s.length if s.reward is None else returns(paid(s, s.reward), config.gamma)
                for s in group
            ]
            for group in batch
        ]
    )


def reinforce_pp_baseline(batch, config):
    rows = []
    for group in batch:
        judged = usable(group)
        rows.append(
            [
                [None] * s.length
                if s.reward is None or len(judged) < 2
                else returns(paid(s, dr_grpo(s, judged, config)), 1.0)
                for s in group
            ]
        )
    return whitened(rows)


REFERENCES = {
    "grpo": responses(grpo),
    "dr_grpo": responses(dr_grpo),
    "rloo": responses(rloo),
    "opo": responses(opo),
    "remax": responses(remax),
    "constant": responses(constant),
    "gdpo": gdpo,
    "pass_at_k": pass_at_k,
    "gae": gae,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
}

VARIANTS = [
    GRPOConfig(normalize_std=False),
    GDPOConfig(batch_normalize=False),
    PassAtKConfig(k=1),
    PassAtKConfig(k=2),
    GAEConfig(gamma=0.9, lam=0.95, whiten=False),
    GAEConfig(gamma=0.99, lam=0.5),
    ReinforcePPConfig(gamma=0.8),
]
CONFIGS = [entry.config() for entry in estimators] + VARIANTS


def cell(value):
    return math.nan if value is None else value


def inputs_of(batch, config):
    rewards_PG = rewards_matrix([[s.reward for s in group] for group in batch])
    P, G = rewards_PG.shape
    lengths_PG = torch.zeros(P, G, dtype=torch.int64)
    inputs = AdvantageInputs(rewards_PG=rewards_PG, lengths_PG=lengths_PG)
    components_PGK = torch.full((P, G, len(WEIGHTS)), torch.nan, dtype=torch.float64)
    token_rewards_PGL, values_PGL = (
        torch.full((P, G, MAX_LENGTH), torch.nan, dtype=torch.float64) for _ in range(2)
    )
    with_token_rewards = any(s.token_rewards is not None for group in batch for s in group)
    for p, group in enumerate(batch):
        for g, s in enumerate(group):
            lengths_PG[p, g] = s.length
            components_PGK[p, g] = torch.tensor([cell(c) for c in s.components])
            values_PGL[p, g, : s.length] = torch.tensor(s.values, dtype=torch.float64)
            if s.token_rewards is not None:
                token_rewards_PGL[p, g, : s.length] = torch.tensor(
                    s.token_rewards, dtype=torch.float64
                )
    more = {}
    if config.needs_components:
        more["components_PGK"] = components_PGK
        more["component_weights_K"] = torch.tensor(WEIGHTS)
    if config.needs_greedy:
        greedy = [cell(group[0].greedy) if group else math.nan for group in batch]
        more["greedy_rewards_P"] = torch.tensor(greedy, dtype=torch.float64)
    if config.needs_critic:
        more["values_PGL"] = values_PGL
    if config.token_level and with_token_rewards:
        more["token_rewards_PGL"] = token_rewards_PGL
    return replace(inputs, **more)


def estimate(inputs, config):
    """Advantages on the tokens of each response, (P, G, L)."""
    advantages_PGL = estimators.get(config.kind).target(inputs, config).advantages_PGL
    expanded_PGL = advantages_PGL.expand(*inputs.rewards_PG.shape, inputs.num_tokens)
    return expanded_PGL.masked_fill(~inputs.tokens_PGL, torch.nan)


def label(config):
    return repr(config).replace("Config", "")


def test_every_estimator_has_a_reference():
    assert {entry.name for entry in estimators} == set(REFERENCES)


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_estimator_equals_its_reference(config):
    num_compared = 0
    for seed in range(60):
        batch = random_batch(
            seed, binary=seed % 3 == 0, token_rewards=config.token_level and seed % 2 == 0
        )
        result = estimate(inputs_of(batch, config), config).tolist()
        for p, group in enumerate(REFERENCES[config.kind](batch, config)):
            for g, expected in enumerate(group):
                row = result[p][g]
                for t, value in enumerate(expected):
                    if value is None:
                        assert math.isnan(row[t]), (seed, p, g, t)
                    else:
                        assert row[t] == pytest.approx(value, rel=1e-6, abs=1e-6), (seed, p, g, t)
                        num_compared += 1
                assert all(math.isnan(x) for x in row[len(expected) :])
            assert all(math.isnan(x) for row in result[p][len(group) :] for x in row)
    assert num_compared > 300


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_returns_equal_their_reference(config):
    inputs = inputs_of(random_batch(5, token_rewards=True), config)
    returns_PGL = estimators.get(config.kind).target(inputs, config).returns_PGL
    assert (returns_PGL is not None) == config.needs_critic
    if returns_PGL is None:
        return
    for p, group in enumerate(random_batch(5, token_rewards=True)):
        for g, sample in enumerate(group):
            for t, advantage in enumerate(plain_gae(sample, config)):
                if advantage is None:
                    assert returns_PGL[p, g, t].isnan()
                else:
                    expected = advantage + sample.values[t]
                    assert returns_PGL[p, g, t].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_order_of_samples_and_prompts_does_not_matter(config):
    batch = [group for group in random_batch(9, token_rewards=config.token_level) if group]
    rng = random.Random(0)
    orders = [rng.sample(range(len(group)), len(group)) for group in batch]
    prompts = rng.sample(range(len(batch)), len(batch))
    shuffled = [[batch[p][g] for g in orders[p]] for p in prompts]
    before = estimate(inputs_of(batch, config), config)
    after = estimate(inputs_of(shuffled, config), config)
    for new_p, p in enumerate(prompts):
        for new_g, g in enumerate(orders[p]):
            torch.testing.assert_close(after[new_p, new_g], before[p, g], equal_nan=True)


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_a_missing_sample_equals_no_sample(config):
    def lacking(sample):
        return sample.reward is None

    for seed in range(10):
        batch = random_batch(seed, token_rewards=config.token_level)
        kept = [[s for s in group if not lacking(s)] for group in batch]
        full = estimate(inputs_of(batch, config), config)
        lean = estimate(inputs_of(kept, config), config)
        for p, group in enumerate(batch):
            left = [g for g, s in enumerate(group) if not lacking(s)]
            for new_g, g in enumerate(left):
                width = min(full.shape[2], lean.shape[2])
                torch.testing.assert_close(
                    full[p, g, :width], lean[p, new_g, :width], equal_nan=True
                )


SHIFTED = ["grpo", "dr_grpo", "rloo", "opo", "pass_at_k", "reinforce_pp", "reinforce_pp_baseline"]


@pytest.mark.parametrize("kind", SHIFTED)
def test_a_constant_added_to_all_rewards_changes_nothing(kind):
    config = estimators.get(kind).config()
    inputs = inputs_of(random_batch(3), config)
    shifted = replace(inputs, rewards_PG=inputs.rewards_PG + 3.0)
    torch.testing.assert_close(
        estimate(inputs, config), estimate(shifted, config), equal_nan=True, atol=1e-9, rtol=1e-9
    )


def test_negative_control_a_greedy_baseline_does_shift():
    config = estimators.get("remax").config()
    inputs = inputs_of(random_batch(3), config)
    shifted = replace(inputs, rewards_PG=inputs.rewards_PG + 3.0)
    difference = estimate(shifted, config) - estimate(inputs, config)
    assert set(difference[~difference.isnan()].round(decimals=9).tolist()) == {3.0}


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_groups_that_claim_to_give_zero_give_exactly_zero(config):
    """What ``leave_out`` relies on: exact for these, and not to be had from the others."""
    rewards = [[0.1] * 7, [1.0, 0.0, 0.3, 0.7, 0.2, 0.9, 0.1]]
    batch = [
        [
            Sample(r, 1 + g % 3, (r, -r, r * r), 0.5, None, (0.1 * g,) * (1 + g % 3))
            for g, r in enumerate(row)
        ]
        for row in rewards
    ]
    equal = estimate(inputs_of(batch, config), config)[0]
    is_zero = set(equal[~equal.isnan()].tolist()) == {0.0}
    if config.zero_when_equal:
        assert is_zero
    elif config.kind != "gdpo":  # whether its batch statistics are 0 depends on the others
        assert not is_zero


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_one_usable_sample_has_no_group_baseline(config):
    sample = Sample(1.0, 2, (1.0, 0.0, 0.5), 0.0, None, (0.1, 0.2))
    batch = [[sample, replace(sample, reward=None)], [sample]]
    result = estimate(inputs_of(batch, config), config)
    assert result.isnan().all() == config.needs_group


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_a_batch_without_any_reward_is_safe(config):
    sample = Sample(None, 2, (None,) * 3, None, None, (0.1, 0.2))
    for batch in ([[sample, sample], [sample]], [[], []], []):
        inputs = inputs_of(batch, config)
        result = estimators.get(config.kind).target(inputs, config)
        assert result.advantages_PGL.isnan().all()
        assert result.advantages_PGL.shape[:2] == inputs.rewards_PG.shape
        assert result.returns_PGL is None or result.returns_PGL.isnan().all()
