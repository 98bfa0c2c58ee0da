"""Held-out prompts: every one answered once, scored by hand."""

from dataclasses import replace

import pytest
from episodes import episode, trajectory

from rlpost.errors import NoAnswer, RunFailed
from rlpost.rollout.collector import Collected
from rlpost.stages.sampling.examiner import Examination, Examiner, heldout_metrics
from rlpost.types import Group, Prompt, SamplingConfig, Verdict


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


class Collecting:
    """A collector that judges at once, and loses the prompts that it is told to lose."""

    def __init__(self, *, lost=(), broken=()):
        self.lost, self.broken, self.asked = lost, broken, []

    async def group(self, prompt, *, num_samples, sampling, seed):
        self.asked.append((prompt.uid, num_samples, sampling.temperature, seed))
        if prompt.uid in self.lost:
            raise NoAnswer("the generator hangs")
        if prompt.uid in self.broken:
            raise RunFailed("too many failures")
        group = replace(GROUP, prompt=prompt)
        return Collected(group=group, generated_s=0.0, judged_s=0.0)


def prompts(count):
    return [Prompt(uid=f"0:{n}", token_ids=(1,), text="") for n in range(count)]


def examiner(collecting):
    sampling = SamplingConfig(temperature=0.5)
    return Examiner(collector=collecting, sampling=sampling, samples=3, seed=11)


async def test_every_prompt_is_asked_once_and_handed_over_when_it_is_judged():
    collecting, judged = Collecting(), []
    found = await examiner(collecting).examine(prompts(4), judged=judged.append)
    assert collecting.asked == [(f"0:{n}", 3, 0.5, 11) for n in range(4)]
    assert [group.prompt.uid for group in found.groups] == [f"0:{n}" for n in range(4)]
    assert judged == list(found.groups) and not found.failed


async def test_a_prompt_that_cannot_be_answered_counts_as_not_known():
    found = await examiner(Collecting(lost={"0:1"})).examine(prompts(3))
    assert found.failed == {"0:1": "the generator hangs"} and len(found.groups) == 2
    metrics = heldout_metrics(found, dataset="d", samples=3)
    assert metrics["val-core/d/missing"] == 2 * 1 + 3
    assert metrics["val-core/d/acc/mean@3"] == 0.5


async def test_what_ends_the_run_ends_the_examination():
    with pytest.raises(RunFailed):
        await examiner(Collecting(broken={"0:2"})).examine(prompts(3))
