"""Each rule by hand, and what holds for all of them: a failure is never a reward."""

import itertools
import math
from pathlib import Path

import pytest

from rlpost.types import Verdict
from rlpost.verifiers.base import ABSTAINED, TIMEOUT
from rlpost.verifiers.combine import MAX_REWARD, Combination, RewardsConfig, Rule

WEIGHTS = {"math": 1.0, "format": 0.5, "style": -2.0}
ABSTAINS = "abstains"  # in the place of a reward
FAILS = "fails"
OPTIONS = {
    Rule.sum: ({}, WEIGHTS),
    Rule.product: ({}, dict.fromkeys(WEIGHTS, 1.0)),
    Rule.gate: ({"gates": ["math"]}, WEIGHTS),
    Rule.first: ({}, WEIGHTS),
}
rules = pytest.mark.parametrize("rule", list(Rule))


def _verdict(name, reward, error=None):
    if reward in (ABSTAINS, FAILS):
        reward, error = None, ABSTAINED if reward == ABSTAINS else TIMEOUT
    return Verdict(verifier=name, reward=reward, error=error)


def _verdicts(*rewards):
    return [_verdict(*each) for each in zip(WEIGHTS, rewards, strict=False)]


def _combination(rule, weights=None, **options):
    default, own = OPTIONS[rule]
    return Combination(
        weights=weights or own, rewards=RewardsConfig(rule=rule, **default, **options)
    )


def _combined(rule, *rewards, weights=None, **options):
    return _combination(rule, weights, **options).combine(_verdicts(*rewards))


@pytest.mark.parametrize(
    ("rewards", "reward"),
    [
        ((1.0, 0.4, 0.1), 1.0 + 0.2 - 0.2),
        ((0.0, ABSTAINS, 0.1), -0.2),
        ((ABSTAINS, ABSTAINS, ABSTAINS), None),
    ],
)
def test_sum(rewards, reward):
    assert _combined(Rule.sum, *rewards) == (reward and pytest.approx(reward))


@pytest.mark.parametrize(
    ("rewards", "reward"),
    [
        ((0.5, 0.5, 4.0), 1.0),
        ((1.0, 0.0, 4.0), 0.0),
        ((0.5, ABSTAINS, 3.0), 1.5),
        ((ABSTAINS, ABSTAINS, ABSTAINS), None),
        ((0.0, FAILS, 1.0), None),  # though nothing could change the 0
    ],
)
def test_product(rewards, reward):
    assert _combined(Rule.product, *rewards) == reward


@pytest.mark.parametrize(
    ("rewards", "reward"),
    [
        ((1.0, 0.4, 0.1), 0.0),  # 0.5 * 0.4 - 2 * 0.1; the gate itself adds nothing
        ((1.0, 1.0, 0.0), 0.5),
        ((0.9, 1.0, 0.0), -3.0),  # below the threshold
        ((ABSTAINS, 1.0, 0.0), 0.5),  # a gate that abstains stops nothing
        ((0.0, ABSTAINS, ABSTAINS), -3.0),
        ((1.0, ABSTAINS, ABSTAINS), None),  # it passed, and nobody says how much it is worth
        ((0.0, FAILS, 1.0), None),  # though the gate stops it anyhow
        ((FAILS, 1.0, 1.0), None),
    ],
)
def test_gate(rewards, reward):
    found = _combined(Rule.gate, *rewards, floor=-3.0)
    assert found == (reward if reward is None else pytest.approx(reward))


def test_every_gate_must_reach_the_threshold():
    rewards = RewardsConfig(rule=Rule.gate, gates=["math", "format"], threshold=0.25)
    gate = Combination(weights={"math": 1.0, "format": 1.0, "style": 2.0}, rewards=rewards)
    assert gate.combine(_verdicts(0.25, 0.25, 3.0)) == 6.0
    assert gate.combine(_verdicts(0.25, 0.24, 3.0)) == 0.0
    assert gate.combine(_verdicts(-9.0, 9.0, 3.0)) == 0.0


@pytest.mark.parametrize(
    ("rewards", "reward"),
    [
        ((0.0, 0.4, 0.1), 0.0),
        ((ABSTAINS, 0.4, 0.1), 0.2),
        ((ABSTAINS, ABSTAINS, 0.1), -0.2),
        ((ABSTAINS, ABSTAINS, ABSTAINS), None),
        ((FAILS, 0.4, 0.1), None),  # a failure does not pass the response on
        ((ABSTAINS, FAILS, 0.1), None),
        ((1.0, FAILS, FAILS), 1.0),  # nobody needed them
    ],
)
def test_first(rewards, reward):
    assert _combined(Rule.first, *rewards) == reward


def test_the_first_judge_is_the_first_of_the_configuration_that_has_a_weight():
    verdicts = [_verdict("b", 2.0), _verdict("a", 3.0)]
    first = RewardsConfig(rule=Rule.first)
    assert Combination(weights={"a": 1.0, "b": 1.0}, rewards=first).combine(verdicts) == 3.0
    assert Combination(weights={"b": 1.0, "a": 1.0}, rewards=first).combine(verdicts) == 2.0
    assert Combination(weights={"a": 0.0, "b": 1.0}, rewards=first).combine(verdicts) == 2.0


def test_a_failure_is_never_a_reward():
    """Whatever the others say: a needed failure leaves None, and nothing better or worse."""
    said = (0.0, 1.0, 2.5, ABSTAINS, FAILS)
    for rule, rewards in itertools.product(Rule, itertools.product(said, repeat=3)):
        found = _combined(rule, *rewards)
        if rule is not Rule.first and FAILS in rewards:
            assert found is None, (rule, rewards)
        if rule is Rule.first:
            decided = next((each for each in rewards if each != ABSTAINS), FAILS)
            assert (found is None) == (decided == FAILS), rewards


@rules
def test_a_missing_verdict_is_a_failure_and_one_of_nobody_is_ignored(rule):
    assert _combined(rule, 1.0, 1.0) is None or rule is Rule.first
    combination = _combination(rule)
    known = combination.combine(_verdicts(1.0, 1.0, 2.0))
    assert combination.combine([*_verdicts(1.0, 1.0, 2.0), _verdict("other", FAILS)]) == known
    assert known is not None


@rules
def test_the_order_of_verdicts_changes_no_bit(rule):
    combination = _combination(rule)
    verdicts = _verdicts(1.0, 1 / 3, 1e-9)
    found = {combination.combine(each) for each in itertools.permutations(verdicts)}
    assert len(found) == 1 and found != {None}


@rules
@pytest.mark.parametrize("idle", [5.0, ABSTAINS, FAILS])
def test_a_judge_of_weight_0_changes_nothing(rule, idle):
    weights = {"idle": 0.0, **OPTIONS[rule][1]}
    verdicts = [_verdict("idle", idle), *_verdicts(1.0, 0.5, 0.25)]
    assert _combination(rule, weights).combine(verdicts) == _combined(rule, 1.0, 0.5, 0.25)


@pytest.mark.parametrize("rule", [Rule.sum, Rule.first])
def test_scaling_all_weights_scales_the_reward(rule):
    doubled = {name: 2 * weight for name, weight in WEIGHTS.items()}
    rewards = (0.75, 0.5, 0.125)
    assert _combined(rule, *rewards, weights=doubled) == 2 * _combined(rule, *rewards)


def test_a_product_with_a_negative_reward_is_a_failure_that_says_so():
    verdicts, reward = _combination(Rule.product).judged(_verdicts(1.0, -2.0, -3.0))
    assert reward is None
    assert verdicts[1].error == "rewards.rule=product takes rewards of 0 or more, got -2"
    verdicts, reward = _combination(Rule.sum).judged(_verdicts(1.0, -2.0, -3.0))
    assert reward == 6.0 and not any(each.error for each in verdicts)


@rules
@pytest.mark.parametrize("reward", [math.nan, math.inf, 2 * MAX_REWARD])
def test_no_number_that_is_none_comes_through(rule, reward):
    verdicts, combined = _combination(rule).judged(_verdicts(reward, 1.0, 1.0))
    assert combined is None and "is not within 1e+30 of 0" in verdicts[0].error
    weights = {"idle": 0.0, **OPTIONS[rule][1]}
    idle = _verdict("idle", reward)
    assert _combination(rule, weights).judged([idle, *_verdicts(1.0, 1.0, 1.0)])[1] is not None


def test_a_product_that_overflows_is_no_reward():
    weights = {str(number): 1.0 for number in range(20)}
    verdicts = [_verdict(name, MAX_REWARD) for name in weights]
    assert _combination(Rule.product, weights).judged(verdicts)[1] is None


def _measured(weights, verifiers, *rewards, **options):
    combination = Combination(weights=weights, rewards=RewardsConfig(**options))
    return combination.measuring(verifiers).combine(
        [_verdict(*each) for each in zip(verifiers, rewards, strict=True)]
    )


def test_several_rewards_are_measured_as_they_are_trained_on():
    assert _measured({"f": 1.0, "g": 0.25}, "fg", 1.0, 4.0) == 2.0
    assert _measured({"f": 1.0, "g": 0.0}, "fg", 1.0, 4.0) == 1.0
    assert _measured({"f": 1.0, "g": 1.0, "rm": 9.0}, "fg", 1.0, 4.0) == 5.0
    assert _measured({"f": 1.0, "g": 1.0}, "fg", 3.0, 4.0, rule=Rule.product) == 12.0
    assert _measured({"f": 1.0, "g": 2.0}, "fg", 0.0, 4.0, rule=Rule.gate, gates=["f"]) == 0.0
    assert _measured({"f": 1.0, "g": 2.0}, "fg", ABSTAINS, 4.0, rule=Rule.first) == 8.0


def test_a_lone_reward_is_measured_as_it_is():
    for weight in (0.25, 0.0):
        assert _measured({"f": weight}, "f", 1.0) == 1.0
    assert _measured({"f": 1.0, "rm": 1.0}, "f", 0.5, rule=Rule.gate, gates=["f"]) == 0.5


def test_rewards_that_only_measure_count_alike():
    assert _measured({"f": 0.0, "g": 0.0}, "fg", 1.0, 0.5) == 1.5


def test_verifiers_are_added_up_where_the_rule_needs_a_reward_model():
    weights = {"f": 1.0, "g": 1.0, "rm": 1.0}
    assert _measured(weights, "fg", 0.5, 0.25, rule=Rule.gate, gates=["f", "g"]) == 0.75
    assert _measured(weights, "fg", 0.5, 0.25, rule=Rule.gate, gates=["rm"]) == 0.75
    # One gate is a verifier and decides still.
    assert _measured(weights, "fg", 0.5, 0.25, rule=Rule.gate, gates=["rm", "f"]) == 0.0


def _examples():
    """Rows of the page's table: what two judges say, and the reward by each rule."""
    page = (Path(__file__).parents[2] / "docs" / "verifiers.md").read_text()
    table = page.split("| a | b | `sum` |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("| ").split("|")] for row in table.splitlines()[2:]]
    return [(row[:2], dict(zip(Rule, row[2:], strict=True))) for row in rows]


@pytest.mark.parametrize(("said", "rewards"), _examples())
def test_the_examples_of_the_page(said, rewards):
    verdicts = [
        _verdict(name, text if text in (ABSTAINS, FAILS) else float(text))
        for name, text in zip("ab", said, strict=True)
    ]
    for rule, reward in rewards.items():
        options = RewardsConfig(rule=rule, gates=["a"] if rule is Rule.gate else [])
        weights = {"a": 1.0, "b": 1.0 if rule is Rule.product else 0.5}
        found = Combination(weights=weights, rewards=options).combine(verdicts)
        assert found == (None if reward == "none" else pytest.approx(float(reward))), rule
