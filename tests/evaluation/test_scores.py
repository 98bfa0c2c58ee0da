"""The numbers of a score sheet, by hand."""

import pytest

from rlpost.evaluation.scores import SampleOutcome, score


def outcome(reward, vote=None, **settings):
    return SampleOutcome(reward=reward, vote=vote, **settings)


def item(*rewards):
    return [outcome(reward, vote=str(reward)) for reward in rewards]


def test_the_mean_is_over_responses_and_pass_and_maj_are_over_items():
    sheet = score([item(1.0, 0.0), item(0.0, 0.0), item(1.0, 1.0)], samples=2, ks=[1, 2])
    assert sheet.mean.mean == 0.5 and sheet.num_items == 3
    assert sheet.at["pass@1"].mean == pytest.approx(0.5)
    assert sheet.at["pass@2"].mean == pytest.approx(2 / 3)
    assert sheet.at["maj@2"].mean == pytest.approx((0.5 + 0 + 1) / 3)
    assert set(sheet.at) == {"pass@1", "maj@1", "pass@2", "maj@2"}


def test_right_responses_vote_together_whatever_they_call_the_answer():
    votes = [outcome(1.0, "1/2"), outcome(1.0, "0.5"), outcome(0.0, "2"), outcome(0.0, "3")]
    assert score([votes], samples=4, ks=[4]).at["maj@4"].mean == 1.0
    split = [outcome(1.0, "1/2"), outcome(0.0, "2"), outcome(0.0, "2")]
    assert score([split], samples=3, ks=[3]).at["maj@3"].mean == 0.0


def test_without_anyone_who_can_tell_what_is_said_there_is_no_vote():
    assert set(score([[outcome(1.0)]], samples=1, ks=[1]).at) == {"pass@1"}


def test_graded_rewards_have_a_best_of_k_instead():
    sheet = score([item(0.25, 0.75), item(1.0, 0.0)], samples=2, ks=[2])
    assert sheet.at.keys() == {"best@2"}
    assert sheet.at["best@2"].mean == pytest.approx((0.75 + 1.0) / 2)
    assert sheet.graded_frac == 0.5


def test_a_failure_is_no_wrong_response():
    failed = outcome(None, failed=True)
    abstained = outcome(None)
    sheet = score([[outcome(1.0), failed], [outcome(1.0), abstained]], samples=2, ks=[2])
    assert sheet.mean.mean == 1.0 and sheet.mean.low < 0.8
    assert (sheet.num_missing, sheet.error_rate) == (2, 0.25)
    assert "pass@2" not in sheet.at  # known of no item


def test_what_was_not_answered_is_not_known():
    sheet = score([item(1.0, 1.0), []], samples=2, ks=[2])
    assert (sheet.num_items, sheet.num_missing, sheet.error_rate) == (2, 2, 0.5)
    assert sheet.at["pass@2"].mean == 1.0 and sheet.at["pass@2"].low < 0.5
    assert sheet.at["pass@2"].num_unknown == 1


def test_the_metrics_have_the_public_names():
    sheet = score([item(1.0, 0.0)] * 4, samples=2, ks=[2])
    metrics = sheet.metrics("math")
    assert metrics["val-core/math/acc/mean@2"] == 0.5
    assert metrics["val-core/math/acc/mean@2/low"] == sheet.mean.low
    assert metrics["val-core/math/acc/pass@2/high"] == 1.0
    assert metrics["val-core/math/truncated_frac"] == 0.0
    assert sheet.metrics("math", intervals=False) == {
        "val-core/math/missing": 0.0,
        "val-core/math/acc/mean@2": 0.5,
        "val-core/math/graded_frac": 0.0,
    }
    nothing = score([[]], samples=1).metrics("math")
    assert nothing == {"val-core/math/missing": 1.0}  # left out, never 0


def test_cut_off_responses_are_counted():
    sheet = score([[outcome(0.0, truncated=True), outcome(1.0)]], samples=2)
    assert sheet.truncated_frac == 0.5
