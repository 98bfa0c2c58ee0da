"""Responses that get too long: two requests, one episode."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from episodes import episode, trajectory
from fakes import FakeGenerator, FakeJudge, prompt, serving_fleet

from rlpost.algorithms.advantages import GAEConfig
from rlpost.algorithms.kl import KLConfig, KLForm, KLPlacement
from rlpost.algorithms.losses import ClipConfig
from rlpost.bounds import check_config
from rlpost.config.schema import AlgorithmConfig, RLConfig, RolloutConfig
from rlpost.control.failures import Budget, FailureConfig
from rlpost.errors import UserError
from rlpost.rollout.collector import Collector
from rlpost.rollout.dispatch import Dispatcher
from rlpost.rollout.interruption import Interruption, InterruptionConfig
from rlpost.rollout.signal import Signal
from rlpost.stages.rl.batch import Scores, estimate, mini_batches
from rlpost.types import GenerationRequest, Group, SamplingConfig
from rlpost.verifiers.combine import Combination
from rlpost.verifiers.kinds.exact import ExactConfig

INTERRUPTION = Interruption(after=3, phrase=" Stop:", token_ids=(90, 91))
REQUEST = GenerationRequest(
    key="train/0:0",
    prompt=prompt(),
    num_samples=2,
    seed=5,
    sampling=SamplingConfig(max_tokens=8, temperature=0.7),
)


def sampled(ids, *, versions, finish_reason="length", sample=1):
    return episode(
        trajectory(ids, versions=versions, logprobs=[-0.1 * token for token in ids]),
        sample=sample,
        finish_reason=finish_reason,
        text="".join(f"<{token}>" for token in ids),
        seed=6,
    )


def test_the_second_request_goes_on_where_the_first_stopped():
    assert INTERRUPTION.first(REQUEST).sampling == SamplingConfig(max_tokens=3, temperature=0.7)
    first = sampled([1, 2, 3], versions=[1, 1, 1])
    continuation = INTERRUPTION.continuation(REQUEST, first, seed=77)
    assert continuation.prompt.token_ids == (5, 6, 7, 1, 2, 3, 90, 91)
    assert continuation.prompt.uid == "0:0" and continuation.key == "train/0:0/1"
    assert (continuation.num_samples, continuation.seed) == (1, 77)
    assert continuation.sampling == SamplingConfig(max_tokens=3, temperature=0.7)  # 8 - 3 - 2


@pytest.mark.parametrize(
    ("before", "after", "spans"),
    [
        ([1, 1, 1], [1, 1], [(0, 3, 1), (5, 7, 1)]),
        ([1, 1, 1], [2, 2], [(0, 3, 1), (5, 7, 2)]),
        ([1, 2, 2], [2, 3], [(0, 1, 1), (1, 3, 2), (5, 6, 2), (6, 7, 3)]),
    ],
)
def test_one_response_in_which_the_phrase_was_not_sampled(before, after, spans):
    first = sampled([1, 2, 3], versions=before)
    continuation = sampled([4, 5], versions=after, finish_reason="stop", sample=0)
    whole = INTERRUPTION.joined(first, continuation)
    assert whole.response_ids == (1, 2, 3, 90, 91, 4, 5) and whole.num_sampled == 5
    assert whole.interrupted and not whole.truncated
    (joined,) = whole.trajectories
    assert joined.rollout_logprobs == pytest.approx((-0.1, -0.2, -0.3, -0.4, -0.5))
    assert [(s.start, s.end, s.version) for s in joined.spans] == spans
    assert whole.text == "<1><2><3> Stop:<4><5>"
    assert (whole.sample, whole.seed) == (1, 6)


def test_the_numbers_of_an_interrupted_response_are_those_of_its_sampled_tokens():
    """Worked out by hand: reward 1 at the end, KL 0.5 a token, gamma 0.5, no critic's opinion."""
    ids = {"first": [1, 2, 3], "continuation": [4, 5]}
    first, continuation = (sampled(each, versions=[0] * len(each)) for each in ids.values())
    whole = replace(INTERRUPTION.joined(first, continuation), reward=1.0)
    group = Group(prompt=prompt(), episodes=(whole, sampled([8], versions=[0])))
    kl = KLConfig(coefficient=0.5, placement=KLPlacement.reward, form=KLForm.k1)
    advantage = GAEConfig(gamma=0.5, lam=1.0, whiten=False)
    cfg = RLConfig(
        verifier=ExactConfig(),
        loss=ClipConfig(),
        algorithm=AlgorithmConfig(advantage=advantage, kl=kl),
    )
    said = np.asarray(whole.trajectories[0].rollout_logprobs)
    scores = Scores(values={0: np.zeros(5)}, ref_logprobs={0: said - 1.0})
    advantages, rewards_PG = estimate([group], scores, cfg=cfg, kl_coefficient=0.5)
    (packed,) = mini_batches([group], advantages, scores, cfg=cfg, seed=0)
    (batch,) = packed.batches[0]
    assert rewards_PG[0, 0] == 1 - 0.5 * 5, "the phrase costs nothing"
    assert scores.kl([group]) == pytest.approx(1.0)
    # The phrase is no step in time: 1 - 0.5 at the end, before it -0.5 + 0.5 * what follows.
    assert packed.column("returns_R")[0].tolist() == [-0.90625, -0.8125, -0.625, -0.25, 0.5]
    assert packed.column("weight_R")[0] == pytest.approx([0.2] * 5)
    assert batch.target_R.tolist() == [1, 2, 3, 4, 5]
    assert batch.token_ids_T.tolist() == [5, 6, 7, 1, 2, 3, 90, 91, 4, 5]
    assert batch.read_R.tolist() == [2, 3, 4, 7, 8], "what follows the phrase was read behind it"


class Rambling(FakeGenerator):
    """Odd samples never end by themselves; ``slow`` of them wait to be cancelled."""

    def __init__(self, *, slow=False, fail_rest=0):
        super().__init__()
        self.requests, self.slow, self.fail_rest = [], slow, fail_rest
        self.cancelled = []

    async def generate(self, request):
        self.requests.append(request)
        going_on = request.key.count("/") == 2
        if going_on and self.fail_rest:
            self.fail_rest -= 1
            self._failures = 1
        if going_on and self.slow:
            await asyncio.sleep(3600)
        made = await super().generate(request)
        if going_on:
            return made
        return tuple(replace(t, finish_reason="length" if t.sample % 2 else "stop") for t in made)

    async def cancel(self, key):
        self.cancelled.append(key)
        return [2]


def collector_over(generator, **failures):
    fleet = serving_fleet(["a"], version=1)
    fleet.suspected = lambda name, **reason: None
    return Collector(
        Dispatcher(fleet, {"a": generator}, signal=Signal()),
        judges=[FakeJudge()],
        combination=Combination(weights={"fake": 1.0}),
        purpose="train",
        failures=FailureConfig(backoff_s=0.0, **failures),
        budget=Budget(64, of="failures", field="failures.failures_in_a_row"),
        interruption=INTERRUPTION,
    )


async def collect(collector):
    sampling = SamplingConfig(max_tokens=8)
    return await collector.collect([prompt()], num_samples=4, sampling=sampling, seed=1)


async def test_only_what_has_not_ended_is_interrupted():
    generator = Rambling()
    (group,) = (await collect(collector_over(generator))).groups
    assert [e.interrupted for e in group.episodes] == [False, True, False, True]
    assert [e.sample for e in group.episodes] == [0, 1, 2, 3]
    assert all(e.reward is not None for e in group.episodes)
    assert all(t.prompt_ids == (5, 6, 7) for e in group.episodes for t in e.trajectories)
    assert [r.key for r in generator.requests] == ["train/0:0", "train/0:0/1", "train/0:0/3"]
    seeds = {r.seed for r in generator.requests}
    assert len(seeds) == 3, "equal seeds would draw the same numbers again"


async def test_a_failure_after_the_phrase_is_one_failed_attempt():
    generator = Rambling(fail_rest=1)
    result = await collect(collector_over(generator))
    assert len(result.groups) == 1 and len(result.groups[0].episodes) == 4
    again = [r for r in generator.requests if r.key == "train/0:0"]
    assert len(again) == 2 and again[0] == again[1], "the attempt is the same one again"
    generator = Rambling(fail_rest=99)
    assert (await collect(collector_over(generator, attempts=2))).failed


async def test_giving_up_reaches_what_goes_on():
    generator = Rambling(slow=True)
    collector = collector_over(generator)
    task = asyncio.create_task(collect(collector))
    while len(generator.requests) < 3:
        await asyncio.sleep(0)
    given_up = collector.cancel("0:0")
    task.cancel()
    assert await given_up == [4, 4], "two tokens before the phrase, two after"
    assert generator.cancelled == ["train/0:0/1", "train/0:0/3"]
    await asyncio.gather(task, return_exceptions=True)
    assert not collector._under_way


def test_half_a_wish_and_a_phrase_that_fills_the_response_are_refused():
    for config in (InterruptionConfig(after=3), InterruptionConfig(phrase="Stop")):
        with pytest.raises(UserError, match=r"interruption\.after=.*set both, or neither"):
            check_config(config, "rollout.interruption")
    for after, message in ((0, r"after must be in \[1, "), (8, r"below rollout\.max_tokens=8")):
        interruption = InterruptionConfig(after=after, phrase="Stop")
        with pytest.raises(UserError, match=message):
            check_config(RolloutConfig(max_tokens=8, interruption=interruption), "rollout")
    with pytest.raises(UserError, match="a phrase of 5 tokens leave nothing"):
        Interruption.of(
            InterruptionConfig(after=3, phrase="Stop!"), encode=lambda t: list(t), max_tokens=8
        )
    assert Interruption.of(InterruptionConfig(), encode=list, max_tokens=8) is None
