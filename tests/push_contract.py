"""What every engine must keep when whole models are pushed to it, told as stories.

All but the first drive a ``TorchPublisher`` and a generator through a bus, whichever engine is
behind it. Those that need an engine of one kind are in tests/system/. ``FakeGenerator`` keeps the
first alone: it holds no weights, so log-probs, spans and requests that cross a push mean nothing.
"""

import asyncio
import random

import pytest
from fakes import seat
from pushed_models import sample, started, worst_gap

from rlpost.errors import RequestAborted, WeightPushError


async def what_the_bus_relies_on(generator, stage) -> int:
    """``stage`` writes a version, damaged or not; returns the version that is served at the end."""
    served = (await generator.health()).version
    assert await generator.abort_push(served + 1) == served  # of a push that never began
    damaged, refused, good = range(served + 1, served + 4)
    await generator.begin_push(damaged)
    await generator.begin_push(damaged)  # asked again
    with pytest.raises(WeightPushError):
        await generator.receive(await stage(damaged, True), first_rank=1)
    assert await generator.abort_push(damaged) == (await generator.health()).version == served
    for version in (refused, good):
        before = await generator.logprobs([[7, 40, 80]])
        await generator.begin_push(version)
        await generator.receive(await stage(version, False), first_rank=1)
        await generator.load(version)
        assert await generator.logprobs([[7, 40, 80]]) != before
        if version == good:
            await generator.commit_push(version)
        else:
            assert await generator.abort_push(version) == served
            assert await generator.logprobs([[7, 40, 80]]) == before
    assert await generator.abort_push(good) == (await generator.health()).version == good
    return good


async def every_push_is_exact(publisher, generator, bus):
    for seed in range(2):
        publisher.perturb(seed)
        report = await bus.publish()
        assert report.probe_logprob_diff_max < 1e-3
        episodes = await sample(generator)  # the same prompt: a stale prefix would show
        assert worst_gap(publisher, episodes) < 1e-3
        assert {version for e in episodes for version in e.versions} == {report.version}


async def wrong_pushes_are_refused(publisher, generator, bus, *, untied):
    served = (await generator.health()).version
    before = await sample(generator)
    good = {n: p.detach().clone() for n, p in publisher.model.named_parameters()}
    publisher.perturb(99)
    publisher.flip_byte = random.Random(0).randrange(1000)
    with pytest.raises(WeightPushError, match="checksum"):
        await bus.publish()
    publisher.flip_byte = None
    publisher.skip = "lm_head.weight" if untied else "model.norm.weight"
    with pytest.raises(WeightPushError, match=rf"missing \['{publisher.skip}'\]"):
        await bus.publish()
    publisher.skip = None
    publisher.misshapen = "model.layers.1.self_attn.k_proj.weight"
    with pytest.raises(WeightPushError, match=r"k_proj\.weight has shape"):
        await bus.publish()
    publisher.misshapen = None
    with pytest.raises(WeightPushError, match="probe"):  # loads well, but is not what we hold
        await publish_something_else(publisher, bus)
    assert (await generator.health()).version == served
    after = await sample(generator)
    assert [t.response_ids for t in after] == [t.response_ids for t in before]
    publisher.model.load_state_dict(good, strict=False)
    assert worst_gap(publisher, after) < 1e-3  # the old version went on serving, whole
    await generator.begin_push(1000)  # another generator fails before anything is sent
    assert await generator.abort_push(1000) == served
    assert (await bus.publish()).version > served  # and a good push still works


async def publish_something_else(publisher, bus):
    """Change the trainer between staging and the probe, as a racing step would."""
    stage = publisher.stage

    async def stage_then_step(version, *, seats):
        locator = await stage(version, seats=seats)
        publisher.perturb(7)
        return locator

    publisher.stage = stage_then_step
    try:
        await bus.publish()
    finally:
        publisher.stage = stage


async def stops_end_a_response(publisher, generator):
    """What was sampled stays as it is, up to the token that completes the stop."""
    free = await sample(generator, max_tokens=40)
    shared = _whole_letters(free[0].text)
    cut = await sample(generator, max_tokens=40, stop=(shared,))
    for before, after in zip(free, cut, strict=True):
        num_tokens = len(after.response_ids)
        assert after.response_ids == before.response_ids[:num_tokens]
        assert after.num_sampled == after.trajectories[0].spans[-1].end == num_tokens
        if shared in before.text:
            assert after.text == before.text[: before.text.index(shared) + len(shared)]
            assert after.finish_reason == "stop"
        else:
            assert after.response_ids == before.response_ids
    assert len(cut[0].response_ids) < len(free[0].response_ids)
    assert worst_gap(publisher, cut) < 1e-3
    token = free[1].response_ids[5]
    ended = (await sample(generator, max_tokens=40, stop_token_ids=(token,)))[1]
    assert ended.response_ids == free[1].response_ids[: free[1].response_ids.index(token) + 1]
    assert (ended.finish_reason, ended.truncated) == ("stop", False)


def _whole_letters(text):
    """Return two letters of a token or of two; half a letter may become another one later."""
    pairs = (text[start : start + 2] for start in range(10, len(text) - 1))
    return next(pair for pair in pairs if "\ufffd" not in pair)


async def requests_go_on_over_a_push(publisher, generator, bus):
    """The engine's spans say which tokens the old weights sampled, and their log-probs agree."""
    running = await started(generator, n=8)
    old = {n: p.detach().clone() for n, p in publisher.model.named_parameters()}
    publisher.perturb(21)
    report = await bus.publish()
    trajectories = [t for episode in await running for t in episode.trajectories]
    new = {n: p.detach().clone() for n, p in publisher.model.named_parameters()}
    crossed = [t for t in trajectories if len(t.spans) == 2]
    assert crossed, [t.spans for t in trajectories]
    for t in crossed:
        assert [s.version for s in t.spans] == [report.version - 1, report.version]
        assert (t.spans[0].start, t.spans[1].end) == (0, len(t.response_ids))
        assert t.spans[0].end == t.spans[1].start
        publisher.model.load_state_dict(old, strict=False)
        gaps = _gaps(publisher, t)
        boundary = t.spans[0].end
        assert max(gaps[:boundary]) < 1e-3 < max(gaps[boundary:])
        publisher.model.load_state_dict(new, strict=False)


def _gaps(publisher, t) -> list[float]:
    truth = publisher.logprobs(t.prompt_ids + t.response_ids)[len(t.prompt_ids) - 1 :]
    return [abs(a - b) for a, b in zip(truth, t.rollout_logprobs, strict=True)]


async def requests_are_given_up(publisher, generator, bus):
    running = await started(generator, n=3)
    lengths = await generator.cancel("test/0:0")
    assert len(lengths) == 3 and all(0 < length < 400 for length in lengths), lengths
    with pytest.raises(RequestAborted):
        await running
    assert await generator.cancel("test/0:0") == []
    running = await started(generator)
    with pytest.raises(WeightPushError, match="probe"):
        await publish_something_else(publisher, bus)
    with pytest.raises(RequestAborted):  # its tokens may be of the refused weights
        await running
    assert (await generator.health()).load.num_preempted == 0


async def a_finished_response_waits_for_the_push(publisher, generator, bus):
    """Tokens of a loaded version count only if it is committed: else they are of none."""
    for commits in (False, True):
        version = bus.last_version = bus.last_version + 1
        running = await started(generator, n=2)
        locator = await publisher.stage(version, seats=[seat()])
        await generator.begin_push(version)
        await generator.receive(locator, first_rank=1)
        await generator.load(version)
        await generator.logprobs([[7, 8]] * 400)  # the engine has gone on long enough
        await asyncio.sleep(3)
        assert not running.done()
        if commits:
            await generator.commit_push(version)
            assert {e.versions[-1] for e in await running} == {version}
        else:
            await generator.abort_push(version)
            with pytest.raises(RequestAborted):
                await running
