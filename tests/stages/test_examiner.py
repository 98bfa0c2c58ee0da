"""Held-out prompts: every one answered once, scored by hand."""

from dataclasses import replace

from episodes import episode, trajectory

from rlpost.stages.examiner import Examination, heldout_metrics
from rlpost.types import Group, Prompt, Verdict


def judged(reward, length, finish="stop"):
    verdict = Verdict(verifier="v", reward=reward, error=None if reward is not None else "timeout")
    sampled = trajectory((4,) * length, prompt_ids=(1, 2, 3))
    return episode(sampled, finish_reason=finish, verdicts=(verdict,), reward=reward)


GROUP = Group(
    prompt=Prompt(uid="0:0", token_ids=(1, 2, 3), text=""),
    episodes=(judged(1.0, 2), judged(0.0, 4, "length"), judged(None, 6)),
)


def test_heldout_counts_what_is_missing():
    metrics = heldout_metrics(Examination(groups=(GROUP,)), dataset="d", samples=3)
    assert metrics == {
        "val-core/d/missing": 1.0, "val-core/d/acc/mean@3": 0.5, "val-core/d/graded_frac": 0.0,
    }  # fmt: skip
    nothing = Group(prompt=GROUP.prompt, episodes=(judged(None, 1),))
    metrics = heldout_metrics(Examination(groups=(nothing,)), dataset="d", samples=1)
    assert "val-core/d/acc/mean@1" not in metrics  # left out, never 0


def test_each_of_several_rewards_has_its_own_heldout_mean():
    verdicts = (Verdict(verifier="f", reward=1.0), Verdict(verifier="g", reward=0.5))
    twice = replace(judged(1.1, 2), verdicts=verdicts)
    group = Group(prompt=GROUP.prompt, episodes=(twice,))
    metrics = heldout_metrics(Examination(groups=(group,)), dataset="d", samples=1)
    assert metrics["val-core/d/acc/mean@1"] == 1.1
    assert (metrics["val-aux/d/f/mean@1"], metrics["val-aux/d/g/mean@1"]) == (1.0, 0.5)


def test_heldout_says_how_many_rewards_are_no_verdict_of_right_or_wrong():
    rewards = (0.0, 1.0, 0.5, 2.0, None)
    group = Group(prompt=GROUP.prompt, episodes=tuple(judged(r, 1) for r in rewards))
    metrics = heldout_metrics(Examination(groups=(group,)), dataset="d", samples=1)
    assert metrics["val-core/d/graded_frac"] == 0.5
