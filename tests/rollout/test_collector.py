"""Retries, and what a failed verdict costs."""

import pytest
from fakes import FakeGenerator, FakeJudge, prompt, serving_fleet

from rlpost.control.failures import Budget, FailureConfig
from rlpost.errors import InfrastructureError, RunFailed
from rlpost.rollout.collector import Collector, OnVerifierError, request_seed
from rlpost.rollout.dispatch import Dispatcher
from rlpost.rollout.signal import Signal
from rlpost.types import SamplingConfig, Verdict
from rlpost.verifiers.combine import Combination

SAMPLING = SamplingConfig(max_tokens=4)
ALONE = Combination(weights={"fake": 1.0})


async def collect(
    generators, judge, prompts, *, attempts=3, budget=64, combination=ALONE, **kwargs
):
    fleet = serving_fleet(list(generators), version=1)
    fleet.suspected = lambda name, **reason: None  # these tests are about prompts, not health
    dispatcher = Dispatcher(fleet, generators, signal=Signal())
    collector = Collector(
        dispatcher,
        judges=judge if isinstance(judge, list) else [judge],
        combination=combination,
        purpose="test",
        failures=FailureConfig(attempts=attempts, backoff_s=0.0),
        budget=Budget(budget, of="failures", field="failures.failures_in_a_row"),
        **kwargs,
    )
    return await collector.collect(prompts, num_samples=4, sampling=SAMPLING, seed=1)


async def test_every_prompt_comes_back_once_in_order():
    prompts = [prompt(f"0:{i}") for i in range(20)]
    generators = {"a": FakeGenerator(), "b": FakeGenerator()}
    result = await collect(generators, FakeJudge(), prompts)
    assert [g.prompt.uid for g in result.groups] == [p.uid for p in prompts]
    assert not result.failed
    assert [g.num_requests for g in generators.values()] == [10, 10]  # least outstanding
    assert all(e.reward is not None for g in result.groups for e in g.episodes)


async def test_a_failed_request_is_tried_again_then_given_up():
    generators = {"a": FakeGenerator(failures=1), "b": FakeGenerator()}
    result = await collect(generators, FakeJudge(), [prompt("0:0")])
    assert len(result.groups) == 1
    broken = {"a": FakeGenerator(failures=99)}
    result = await collect(broken, FakeJudge(), [prompt("0:3")], attempts=2)
    assert result.failed == {"0:3": "fake engine does not answer"}
    assert broken["a"].num_requests == 2


async def test_failures_without_progress_end_the_run():
    prompts = [prompt(f"0:{i}") for i in range(4)]
    broken = {"a": FakeGenerator(failures=99)}
    with pytest.raises(RunFailed, match=r"failures\.failures_in_a_row=3.*does not answer"):
        await collect(broken, FakeJudge(), prompts, attempts=2, budget=3)
    assert not (await collect(broken, FakeJudge(), prompts[:3], attempts=2, budget=3)).groups


async def test_what_fails_together_is_one_failure():
    """A process that dies fails every prompt it had; its restart is what counts."""
    prompts = [prompt(f"0:{i}") for i in range(100)]
    dies = {"a": FakeGenerator(failures=100)}
    assert len((await collect(dies, FakeJudge(), prompts, attempts=2, budget=3)).groups) == 100


async def test_failed_verdict_costs_the_sample_or_the_group_never_a_zero():
    prompts = [prompt(f"0:{i}") for i in range(8)]
    judge = FakeJudge(fail_on=3)
    samples = await collect({"a": FakeGenerator()}, judge, prompts)
    groups = await collect(
        {"a": FakeGenerator()}, judge, prompts, on_verifier_error=OnVerifierError.group
    )
    for by_sample, by_group in zip(samples.groups, groups.groups, strict=True):
        failed = [e.verdicts[0].error is not None for e in by_sample.episodes]
        assert [r is None for r in by_sample.rewards] == failed
        assert all(r is None for r in by_group.rewards) == any(failed)


async def test_a_bug_in_the_judge_is_loud():
    class Broken:
        async def judge(self, group):
            raise KeyError("bug")

    with pytest.raises(KeyError):
        await collect({"a": FakeGenerator()}, Broken(), [prompt()])
    with pytest.raises(InfrastructureError):  # negative control: this one is not a bug
        raise InfrastructureError


def test_seeds_depend_on_run_and_prompt_only():
    assert request_seed(1, "0:1") == request_seed(1, "0:1")
    seeds = {request_seed(s, f"{e}:{r}") for s in range(3) for e in range(3) for r in range(100)}
    assert len(seeds) == 900 and all(0 <= s < 2**62 for s in seeds)


class OtherJudge:
    """Reward 10 as ``other``; fails on every second response."""

    async def judge(self, group):
        good = Verdict(verifier="other", reward=10.0)
        failed = Verdict(verifier="other", reward=None, error="e")
        return [(failed if n % 2 else good,) for n in range(len(group.episodes))]


async def test_several_judges_give_verdicts_and_the_rule_makes_the_reward():
    judges = [FakeJudge(), OtherJudge()]
    for weight in (2.0, 0.0):
        combination = Combination(weights={"fake": 1.0, "other": weight})
        result = await collect(
            {"a": FakeGenerator()}, judges, [prompt("0:0")], combination=combination
        )
        for n, t in enumerate(result.groups[0].episodes):
            fake, other = t.verdicts
            assert (fake.verifier, other.verifier) == ("fake", "other")
            failed = weight != 0 and n % 2
            assert t.reward == (None if failed else fake.reward + weight * 10)
