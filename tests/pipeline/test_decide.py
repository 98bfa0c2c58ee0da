import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.errors import UserError
from rlpost.evaluation.comparison import compare
from rlpost.pipeline.decide import GateVerdict, decide
from rlpost.pipeline.gate import parse_gate

REWARDS = st.lists(
    st.tuples(st.sampled_from((0.0, 1.0, None)), st.sampled_from((0.0, 1.0, None))),
    min_size=2,
    max_size=30,
)


def decided(text, scores=None, measured=None, confidence=0.95):
    return decide(
        parse_gate(text, field="gate"),
        own="own",
        start="start",
        scores=scores or {},
        measured=measured or {},
        confidence=confidence,
        seed=7,
    )


def by_item(values):
    return {str(number): [value] for number, value in enumerate(values)}


def pair(after, before):
    return {("t", "own"): by_item(after), ("t", "start"): by_item(before)}


@given(REWARDS)
def test_delta_has_the_interval_of_the_paired_comparison(rewards):
    before, after = ([pair[side] for pair in rewards] for side in (0, 1))
    found = decided("delta(t) >= 0", pair(after, before))
    expected = compare(by_item(before), by_item(after), seed=7)
    if expected is None:
        assert (found.verdict, found.low) == (GateVerdict.failed, None)
        return
    assert found.left == pytest.approx(expected.difference)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_passes_fails_and_is_undecided():
    better, worse = pair([1.0] * 50, [0.0] * 50), pair([0.0] * 50, [1.0] * 50)
    mixed = pair([1.0] * 26 + [0.0] * 24, [0.0] * 25 + [1.0] * 25)
    assert decided("delta(t) > 0", better).verdict is GateVerdict.passed
    assert decided("delta(t) > 0", worse).verdict is GateVerdict.failed
    assert decided("delta(t) > 0", mixed).verdict is GateVerdict.undecided
    assert decided("delta(t) < 0", worse).verdict is GateVerdict.passed


def test_so_few_items_that_agree_decide_nothing():
    few, many = ([1.0, 0.0, 1.0] * times for times in (1, 100))
    assert decided("delta(t) >= -0.02", pair(few, few)).verdict is GateVerdict.undecided
    assert decided("delta(t) >= -0.02", pair(many, many)).verdict is GateVerdict.passed
    # Clopper and Pearson: 0 of 3 items may be up to 70.8 % of all items.
    assert decided("delta(t) >= 0", pair(few, few)).low == pytest.approx(-0.708, abs=1e-3)
    alone = decided("score(t) >= 0.9", pair([1.0] * 20, [0.0] * 20))
    assert (alone.low, alone.high) == pytest.approx((0.1 - 0.168, 0.1), abs=1e-3)
    both = decided("score(t) >= score(t, start) + 0.5", pair([1.0] * 20, [0.0] * 20))
    assert (both.low, both.high) == pytest.approx((0.5 - 2 * 0.168, 0.5), abs=1e-3)


def test_equal_rewards_that_are_no_shares_hold_a_bound_and_are_not_better():
    same = pair([3.0, 0.0, 1.0], [3.0, 0.0, 1.0])
    assert decided("delta(t) >= -0.02", same).verdict is GateVerdict.passed
    assert decided("delta(t) > 0", same).verdict is GateVerdict.failed
    # 0.1 + 0.2 is not 0.3 in binary, and means it.
    assert decided("delta(t) + 0.1 + 0.2 >= 0.3", same).verdict is GateVerdict.passed


def test_the_interval_is_of_the_whole_expression():
    # Paired, score(own) - score(start) is the same for every item: nothing is uncertain.
    values = [1 + 0.1 * (number % 7) for number in range(40)]
    shifted = pair([value + 0.2 for value in values], values)
    found = decided("score(t) >= score(t, start) + 0.1", shifted)
    assert found.low == pytest.approx(0.1) == found.high
    alone = decided("score(t) >= 1.1", shifted)
    assert alone.high - alone.low > 0.05


def test_a_product_and_two_suites():
    scores = pair([2.0] * 10, [0.5] * 10) | {
        ("u", "own"): by_item([0.25] * 4),
        ("u", "start"): by_item([0.25] * 4),
    }
    found = decided("score(t) * score(u) == 0.5 + delta(u)", scores)
    assert (found.left, found.right, found.verdict) == (0.5, 0.5, GateVerdict.passed)


def test_numbers_that_a_stage_reports_are_exact():
    assert decided("rows >= 5", measured={"rows": 5.0}).verdict is GateVerdict.passed
    assert decided("rows >= 5", measured={"rows": 4.0}).verdict is GateVerdict.failed
    assert decided("leaked_into_heldout == 0", measured={"leaked_into_heldout": 1.0}).verdict is (
        GateVerdict.failed
    )


def test_a_value_that_one_model_lacks_is_left_out_of_all():
    found = decided("delta(t) > 0", pair([1.0, None, 1.0], [0.0, 0.0, None]))
    assert (found.left, found.high) == (1.0, 1.0)


def test_models_that_answered_other_items_are_refused():
    scores = {("t", "own"): {"a": [1.0]}, ("t", "start"): {"b": [1.0]}}
    with pytest.raises(UserError, match="same items"):
        decided("delta(t) > 0", scores)


def test_more_confidence_decides_less():
    scores = pair([1.0] * 14 + [0.0] * 6, [0.0] * 8 + [1.0] * 6 + [0.0] * 6)
    narrow = decided("delta(t) > 0", scores, confidence=0.5)
    wide = decided("delta(t) > 0", scores, confidence=0.999)
    assert wide.low < narrow.low and narrow.high < wide.high
