"""Pushes into a real vLLM engine: what is accepted is exact, what is wrong is refused.

One engine per model, because a boot costs many seconds; each test is a story of pushes.
"""

import asyncio
import os
import random
from pathlib import Path

import pytest
from fakes import seat
from pushed_models import TorchPublisher, boot, bus_for, sample, started, worst_gap
from tiny_families import build_tiny_family

from rlpost.errors import RequestAborted, WeightPushError
from rlpost.weights import vllm_plugin
from rlpost.weights.transports import gloo
from rlpost.weights.transports.gloo import GlooSender
from rlpost.weights.transports.shared_memory import shared_memory_directory, shared_memory_id


@pytest.mark.parametrize("kind", ["tied", "untied"])
async def test_pushes(kind, tiny_model, tiny_untied_model, tmp_path, monkeypatch):
    path = tiny_model if kind == "tied" else tiny_untied_model
    publisher = TorchPublisher(path, run_id=f"test-{kind}-{tmp_path.name}")
    generator = await boot(path)
    bus = bus_for(publisher, generator)
    try:
        await _every_push_is_exact(publisher, generator, bus)
        await _wrong_pushes_are_refused(publisher, generator, bus, untied=kind == "untied")
        await _seeds_and_temperature(publisher, generator)
        await _stops_end_a_response(publisher, generator)
        await _requests_go_on_over_a_push(publisher, generator, bus)
        await _requests_are_given_up(publisher, generator, bus)
        await _a_finished_response_waits_for_the_push(publisher, generator, bus)
        if kind == "untied":
            await _pushes_from_another_host(publisher, generator, bus, monkeypatch)
    finally:
        sockets = Path(os.environ["VLLM_RPC_BASE_PATH"])
        were_there = any(path.is_socket() for path in sockets.iterdir())
        await generator.close()
        publisher.sender.close()
    assert were_there and not sockets.exists()
    assert not [*shared_memory_directory().glob(f"*{publisher.sender.run_id}*")]


OTHERS = {
    # Fused by transformers, packed by vLLM for its CPU kernel.
    "qwen3_moe": "model.layers.1.mlp.experts.2.up_proj.weight",
    # Renamed by transformers, and run by vLLM through transformers.
    "gpt_neox": "embed_out.weight",
}


@pytest.mark.parametrize("family", OTHERS)
async def test_families_whose_checkpoint_has_another_form(family, tmp_path):
    path = build_tiny_family(tmp_path / "model", family)
    publisher = TorchPublisher(path, run_id=f"test-{family}-{tmp_path.name}")
    generator = await boot(path)
    bus = bus_for(publisher, generator)
    try:
        await _every_push_is_exact(publisher, generator, bus)
        served = bus.last_version
        before = await sample(generator)
        publisher.perturb(5)
        publisher.skip = OTHERS[family]
        with pytest.raises(WeightPushError, match=rf"missing \['{publisher.skip}'\]"):
            await bus.publish()
        publisher.skip = None
        with pytest.raises(WeightPushError, match="probe"):
            await _publish_something_else(publisher, bus)
        assert (await generator.health()).version == served
        after = await sample(generator)
        assert [t.response_ids for t in after] == [t.response_ids for t in before]
        await bus.publish()
    finally:
        await generator.close()
        publisher.sender.close()


async def _every_push_is_exact(publisher, generator, bus):
    for seed in range(2):
        publisher.perturb(seed)
        report = await bus.publish()
        assert report.probe_logprob_diff_max < 1e-3
        episodes = await sample(generator)  # the same prompt: a stale prefix would show
        assert worst_gap(publisher, episodes) < 1e-3
        assert {version for e in episodes for version in e.versions} == {report.version}


async def _wrong_pushes_are_refused(publisher, generator, bus, *, untied):
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
        await _publish_something_else(publisher, bus)
    assert (await generator.health()).version == served
    after = await sample(generator)
    assert [t.response_ids for t in after] == [t.response_ids for t in before]
    publisher.model.load_state_dict(good, strict=False)
    assert worst_gap(publisher, after) < 1e-3  # the old version went on serving, whole
    await generator.begin_push(1000)  # another generator fails before anything is sent
    assert await generator.abort_push(1000) == served
    assert (await bus.publish()).version > served  # and a good push still works


async def _publish_something_else(publisher, bus):
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


async def _seeds_and_temperature(publisher, generator):
    group = await sample(generator, n=3, seed=11)
    (alone,) = await sample(generator, n=1, seed=13)
    assert alone.response_ids == group[2].response_ids  # child k uses seed + k
    warm = await sample(generator, temperature=0.7)
    assert worst_gap(publisher, warm, temperature=0.7) < 1e-3
    assert worst_gap(publisher, warm, temperature=1.0) > 1e-2  # negative control


async def _stops_end_a_response(publisher, generator):
    """What was sampled stays as it is, up to the token that completes the stop."""
    free = await sample(generator, max_tokens=40)
    shared = free[0].text[20:23]  # letters of a token or of two
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


async def _requests_go_on_over_a_push(publisher, generator, bus):
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


async def _requests_are_given_up(publisher, generator, bus):
    running = await started(generator, n=3)
    lengths = await generator.cancel("test/0:0")
    assert len(lengths) == 3 and all(0 < length < 400 for length in lengths), lengths
    with pytest.raises(RequestAborted):
        await running
    assert await generator.cancel("test/0:0") == []
    running = await started(generator)
    with pytest.raises(WeightPushError, match="probe"):
        await _publish_something_else(publisher, bus)
    with pytest.raises(RequestAborted):  # its tokens may be of the refused weights
        await running
    assert (await generator.health()).load.num_preempted == 0


async def _a_finished_response_waits_for_the_push(publisher, generator, bus):
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


async def _pushes_from_another_host(publisher, generator, bus, monkeypatch):
    """Over gloo, into a file in place: the old version serves until the new one is loaded."""
    monkeypatch.setattr(gloo, "shared_memory_id", lambda: "where the trainer is")
    before, near = bus.last_version, publisher.sender
    far = GlooSender(host="127.0.0.1", timeout_s=60.0, pages=near)
    bus = bus_for(publisher, generator, memory=shared_memory_id())
    bus.last_version, publisher.sender = before, far
    try:
        await _every_push_is_exact(publisher, generator, bus)
        served, whole = bus.last_version, await sample(generator)
        publisher.perturb(98)
        publisher.flip_byte = 77
        with pytest.raises(WeightPushError, match="checksum"):  # the file holds damage by now
            await bus.publish()
        publisher.flip_byte = None
        assert (await generator.health()).version == served
        after = await sample(generator)
        assert [t.response_ids for t in after] == [t.response_ids for t in whole]
        with pytest.raises(WeightPushError, match="probe"):  # loaded: nothing here to go back to
            await _publish_something_else(publisher, bus)
        assert bus._fleet.stale() == ["g"]
        await _every_push_is_exact(publisher, generator, bus)
        assert bus._fleet.serving() == ["g"]
    finally:
        publisher.sender = near


async def test_a_skipped_tied_head_is_refused_by_the_probe(
    tiny_model, tmp_path, monkeypatch, counted
):
    """Without the repair of the tied head the push loads, and only the probe notices."""
    monkeypatch.syspath_prepend(_plugin_without_repair(tmp_path))  # spawned processes inherit it
    publisher = TorchPublisher(tiny_model, run_id=f"head-{tmp_path.name}")
    generator = await boot(tiny_model)
    bus = bus_for(publisher, generator)
    try:
        await bus.publish()  # unchanged weights: nothing can be stale
        publisher.perturb(3)
        with pytest.raises(WeightPushError, match="probe"):
            await bus.publish()
        assert (await generator.health()).version == 1
    finally:
        await generator.close()
        publisher.sender.close()
    assert counted() == ["vllm_boots"]


def _plugin_without_repair(tmp_path):
    """A vLLM plugin that removes ``_repack_tied_head`` in the engine's processes only."""
    (tmp_path / "skip_head.py").write_text(
        "def register():\n"
        "    from rlpost.weights import vllm_plugin\n"
        "    vllm_plugin.register()\n"
        "    vllm_plugin.StagedEngine._repack_tied_head = lambda self: None\n"
    )
    info = tmp_path / "skip_head-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: skip-head\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nskip_head = skip_head:register\n"
    )
    assert hasattr(vllm_plugin.StagedEngine, "_repack_tied_head")
    return tmp_path
