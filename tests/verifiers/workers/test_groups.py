"""Who is to blame when the call for a whole group fails: with fakes, then with workers."""

import asyncio
import itertools
import textwrap
import time

import pytest

from rlpost.types import Verdict
from rlpost.verifiers.base import ABSTAINED, TIMEOUT, Sample
from rlpost.verifiers.kinds.function import Call, FunctionConfig
from rlpost.verifiers.workers.groups import TogetherFailed, judge_together
from rlpost.verifiers.workers.service import VerifierService


class Judges:
    """Judges samples 0, 1, ... by how many are judged at once; some of them are poisonous."""

    def __init__(self, *, poison=(), fails_together=()):
        self._poison = set(poison)
        self._fails = set(fails_together)
        self.calls = []  # samples of each call, in order

    async def together(self, samples):
        self.calls.append(tuple(samples))
        if self._poison & set(samples) or len(samples) in self._fails:
            raise TogetherFailed(f"no {len(samples)}", latency_s=0.5)
        return [Verdict(verifier="f", reward=float(len(samples))) for _ in samples]

    async def alone(self, sample):
        self.calls.append((sample,))
        if sample in self._poison:
            return Verdict(verifier="f", reward=None, error=f"alone {sample}")
        return Verdict(verifier="f", reward=1.0)

    async def judge(self, num):
        verdicts = await judge_together(
            range(num), verifier="f", together=self.together, alone=self.alone
        )
        assert len(verdicts) == num
        return verdicts


async def test_one_call_when_it_succeeds():
    judges = Judges()
    assert [v.reward for v in await judges.judge(4)] == [4.0] * 4
    assert judges.calls == [(0, 1, 2, 3)]


@pytest.mark.parametrize(
    "poison", [c for n in (1, 2, 3) for c in itertools.combinations(range(4), n)]
)
async def test_only_the_guilty_fail_and_the_others_are_judged_together_again(poison):
    judges = Judges(poison=poison)
    verdicts = await judges.judge(4)
    for i, verdict in enumerate(verdicts):
        assert verdict.error == (f"alone {i}" if i in poison else None)
        assert verdict.reward == (None if i in poison else float(4 - len(poison)))
    assert sum(len(call) > 1 for call in judges.calls) <= 2


async def test_nothing_is_called_again_when_all_are_guilty():
    judges = Judges(poison=range(3))
    assert [v.error for v in await judges.judge(3)] == ["alone 0", "alone 1", "alone 2"]
    assert len(judges.calls) == 4


async def test_what_fails_only_together_fails_for_all_and_rewards_given_alone_are_not_used():
    judges = Judges(fails_together=[4])
    verdicts = await judges.judge(4)
    assert [(v.reward, v.error, v.latency_s) for v in verdicts] == [(None, "no 4", 0.5)] * 4
    judges = Judges(poison=[0], fails_together=[3])
    assert [v.error for v in await judges.judge(4)] == ["alone 0", "no 3", "no 3", "no 3"]


async def test_a_single_response_is_called_once():
    judges = Judges(poison=[0])
    assert [v.error for v in await judges.judge(1)] == ["no 1"]
    assert judges.calls == [(0,)]


class Slow(Judges):
    """The call for several ends when it is told to, or with its own deadline."""

    def __init__(self, *, poison=(), lasts_s=60.0):
        super().__init__(poison=poison)
        self._lasts_s = lasts_s
        self.cancelled = []

    async def together(self, samples):
        if len(samples) == 4:
            try:
                await asyncio.sleep(self._lasts_s)
            except asyncio.CancelledError:
                self.cancelled.append(len(samples))
                raise
        return await super().together(samples)

    async def judge(self, num):
        return await judge_together(
            range(num), verifier="f", together=self.together, alone=self.alone, patience_s=0.05
        )


async def test_a_sample_that_hangs_is_found_while_the_call_goes_on():
    judges = Slow(poison=[2])
    async with asyncio.timeout(10):
        verdicts = await judges.judge(4)
    assert [v.reward for v in verdicts] == [3.0, 3.0, None, 3.0]
    await asyncio.sleep(0)
    assert judges.cancelled == [4]


async def test_a_call_that_is_only_slow_counts():
    judges = Slow(lasts_s=0.3)
    assert [v.reward for v in await judges.judge(4)] == [4.0] * 4
    assert judges.cancelled == []


async def test_who_stops_waiting_ends_the_call():
    judges = Slow()
    waiting = asyncio.ensure_future(judges.judge(4))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert judges.cancelled == [4]


async def test_an_abstention_is_no_fault():
    judges = Judges(fails_together=[2])

    async def abstains(sample):
        return Verdict(verifier="f", reward=None, error=ABSTAINED)

    verdicts = await judge_together(
        range(2), verifier="f", together=judges.together, alone=abstains
    )
    assert [v.error for v in verdicts] == ["no 2", "no 2"]


TIMEOUT_S = 2.0  # of one response
RANK = """
    import os, time
    def rank(completions, short=None, **columns):
        for text in completions:
            if text == "raise":
                raise ValueError("no")
            if text == "hang":
                time.sleep(60)
            if text == "die":
                os._exit(3)
            if text == "hate company" and len(completions) > 1:
                raise ValueError("together")
        if short:
            return [1.0]
        lengths = [len(text) for text in completions]
        shorter = [float(sum(other < length for other in lengths)) for length in lengths]
        special = {"word": "text", "skip": None}
        return [special.get(*each) for each in zip(completions, shorter)]
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("groups") / "rewards.py"
    file.write_text(textwrap.dedent(RANK))
    return f"{file}:rank"


@pytest.fixture(scope="module")
def ranking(path):
    """A reward that only the whole group can give: how many responses are shorter."""
    cfg = FunctionConfig(path=path, timeout_s=TIMEOUT_S, call=Call.group)
    service = VerifierService({"rank": cfg}, num_workers=2)
    yield service
    service.close()


async def _judge(service, *texts, **columns):
    samples = [Sample(prompt="q", text=text, columns=columns) for text in texts]
    return [verdict for (verdict,) in await service.judge(samples)]


async def test_a_group_is_judged_in_one_call(ranking):
    verdicts = await _judge(ranking, "aaa", "a", "aa", "a")
    assert [v.reward for v in verdicts] == [3.0, 0.0, 2.0, 0.0]
    assert [v.reward for v in await _judge(ranking, "aaa")] == [0.0]


@pytest.mark.parametrize(
    ("guilty", "error"),
    [("raise", "ValueError: no"), ("die", "worker died"), ("hang", TIMEOUT)],
)
async def test_the_guilty_one_fails_and_the_others_are_a_group(ranking, guilty, error):
    verdicts = await _judge(ranking, "aaa", "a", guilty, "aa")
    assert [v.reward for v in verdicts] == [2.0, 0.0, None, 1.0]
    assert verdicts[2].error.startswith(error)
    assert [v.reward for v in await _judge(ranking, "aa", "a")] == [1.0, 0.0]


async def test_one_that_hangs_costs_a_large_group_two_deadlines_and_not_as_many_as_it_has(ranking):
    start, texts = time.monotonic(), [*("a" * i for i in range(1, 12)), "hang"]
    verdicts = await _judge(ranking, *texts)
    assert time.monotonic() - start < len(texts) * TIMEOUT_S / 2  # the call for all has it whole
    assert [v.reward for v in verdicts] == [*map(float, range(11)), None]
    assert verdicts[-1].error == TIMEOUT


async def test_every_response_has_one_verdict(ranking):
    verdicts = await _judge(ranking, "aaa", "raise", "aa")
    assert [v.error is None for v in verdicts] == [True, False, True]


async def test_one_bad_entry_of_a_list_is_one_failure(ranking):
    verdicts = await _judge(ranking, "a", "word", "skip", "aaaaaa")
    assert [v.reward for v in verdicts] == [0.0, None, None, 3.0]
    assert "str, not a number" in verdicts[1].error and verdicts[2].error == ABSTAINED


async def test_a_list_of_the_wrong_length_fails_for_all(ranking):
    verdicts = await _judge(ranking, "a", "aa", "aaa", short=True)
    assert [v.reward for v in verdicts] == [None] * 3
    assert all("got 1 for 3; verifier.call=sample" in v.error for v in verdicts)


async def test_what_fails_only_in_company_fails_for_all(ranking):
    verdicts = await _judge(ranking, "a", "hate company", "aa")
    assert [v.reward for v in verdicts] == [None] * 3
    assert all(v.error.startswith("ValueError: together") for v in verdicts)


async def test_a_row_that_cannot_be_sent_leaves_the_others_a_group(ranking):
    samples = [Sample(prompt="q", text=text) for text in ("a", "aa", "aaa")]
    samples[1] = Sample(prompt="q", text="aa", columns={"lock": object()})
    verdicts = [verdict for (verdict,) in await ranking.judge(samples)]
    assert [v.reward for v in verdicts] == [0.0, None, 1.0]
    assert "cannot be sent to a worker" in verdicts[1].error


async def test_one_by_one_although_the_function_takes_lists(path):
    cfg = FunctionConfig(path=path, call=Call.sample)
    service = VerifierService({"rank": cfg}, num_workers=1)
    try:
        assert [v.reward for v in await _judge(service, "a", "aa")] == [0.0, 0.0]
    finally:
        service.close()


async def test_the_deadline_of_a_group_grows_with_it(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text(
        "import time\ndef f(completions):\n"
        "    time.sleep(0.5 * len(completions))\n    return [1.0] * len(completions)\n"
    )
    cfg = FunctionConfig(path=f"{file}:f", timeout_s=1.5, call=Call.group)
    service = VerifierService({"f": cfg}, num_workers=1)
    try:
        verdicts = await _judge(service, *"abcd")
        assert [v.reward for v in verdicts] == [1.0] * 4
        assert all(0.5 <= v.latency_s < 1.5 for v in verdicts)  # each one's share of the call
    finally:
        service.close()
