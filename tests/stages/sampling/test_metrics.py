"""The numbers of a step's samples, by hand."""

import pytest
from episodes import episode, trajectory

from rlpost.rollout.producer import Batch, Dropped
from rlpost.stages.sampling import metrics as sampled
from rlpost.types import Group, Prompt, Verdict


def judged(reward, length, finish="stop"):
    verdict = Verdict(verifier="v", reward=reward, error=None if reward is not None else "timeout")
    sampled = trajectory((4,) * length, prompt_ids=(1, 2, 3))
    return episode(sampled, finish_reason=finish, verdicts=(verdict,), reward=reward)


GROUP = Group(
    prompt=Prompt(uid="0:0", token_ids=(1, 2, 3), text=""),
    episodes=(judged(1.0, 2), judged(0.0, 4, "length"), judged(None, 6)),
)


def test_rollout_metrics():
    metrics = sampled.rollout([GROUP])
    assert metrics["critic/score/mean"] == 0.5  # the failed verdict is no zero
    assert metrics["response_length/mean"] == 4.0
    assert metrics["response_length/clip_ratio"] == pytest.approx(1 / 3)
    assert metrics["rollout/num_tokens"] == 12 + 9
    assert metrics["verifier/v/timeout_rate"] == pytest.approx(1 / 3)
    assert metrics["verifier/v/error_rate"] == 0.0


def test_an_observation_is_no_token_of_the_response():
    written = trajectory((4, 90, 91, 4), prompt_ids=(1, 2, 3), versions=[1, None, None, 1])
    group = Group(
        prompt=GROUP.prompt, episodes=(episode(written, interrupted=True), judged(1.0, 4))
    )
    metrics = sampled.rollout([group])
    assert (metrics["response_length/min"], metrics["response_length/max"]) == (2, 4)
    assert metrics["response_length/interrupted_ratio"] == 0.5
    assert metrics["training/off_policy/trajectory_spans/mean"] == 1, "one version each"
    assert (metrics["rollout/tokens"], metrics["rollout/num_tokens"]) == (6, 14)


def test_off_policy_metrics():
    def group(length):
        return Group(prompt=GROUP.prompt, episodes=(judged(1.0, length),))

    stale = [Dropped(reason="stale", mean_tokens=n) for n in (9.0, 8.0)]
    batch = Batch(
        groups=(group(1), group(2), group(3), group(7)),
        sampled=(),
        lags=(0, 1, 1, 2),
        oldest_version=0,
        dropped=(*stale, Dropped(reason="no_gradient", mean_tokens=1.0)),
        generation_s=0.0,
        verification_s=0.0,
        idle_s=0.0,
    )
    metrics = sampled.off_policy(batch)
    prefix = "training/off_policy"
    assert metrics[f"{prefix}/trajectory_staleness/mean"] == 1.0
    assert metrics[f"{prefix}/trajectory_staleness/max"] == 2.0
    assert [metrics[f"{prefix}/staleness/{k}"] for k in range(3)] == [0.25, 0.5, 0.25]
    assert metrics[f"{prefix}/evicted_samples"] == 2.0
    assert metrics["rollout/dropped/no_gradient"] == 1.0
    rates = [metrics[f"{prefix}/drop_rate/q{q}"] for q in (1, 2, 3, 4)]
    assert rates == [0.0, 0.0, 0.0, 1.0], "the two longest of six were dropped"
