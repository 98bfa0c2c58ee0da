"""Pushes into a real vLLM engine: what is accepted is exact, what is wrong is refused.

One engine per model, because a boot costs many seconds; each test is a story of pushes.
"""

import asyncio
import os
from pathlib import Path

import pytest
from push_contract import (
    a_finished_response_waits_for_the_push,
    every_push_is_exact,
    publish_something_else,
    requests_are_given_up,
    requests_go_on_over_a_push,
    stops_end_a_response,
    what_the_bus_relies_on,
    wrong_pushes_are_refused,
)
from pushed_models import TorchPublisher, boot, bus_for, sample, worst_gap
from tiny_families import build_tiny_family

from rlpost.errors import WeightPushError
from rlpost.rollout.generator_config import KVCacheDtype
from rlpost.weights import buckets, vllm_reload
from rlpost.weights.protocol import QUANTIZED_MEAN_DIFF
from rlpost.weights.transports import stream_sender
from rlpost.weights.transports.gloo_wire import GlooWire
from rlpost.weights.transports.shared_memory import shared_memory_directory, shared_memory_id
from rlpost.weights.transports.stream_sender import StreamSender


@pytest.mark.parametrize("kind", ["tied", "untied"])
async def test_pushes(kind, tiny_model, tiny_untied_model, tmp_path, monkeypatch):
    path = tiny_model if kind == "tied" else tiny_untied_model
    publisher = TorchPublisher(path, run_id=f"test-{kind}-{tmp_path.name}")
    generator = await boot(path, blank=kind == "tied")
    bus = bus_for(publisher, generator)
    try:
        if kind == "tied":
            await _nothing_is_sampled_before_a_push(publisher, generator, bus)
        await every_push_is_exact(publisher, generator, bus)
        bus.last_version = await what_the_bus_relies_on(generator, publisher.stage_changed)
        await _a_single_wrong_bit_shows(publisher, generator, bus)
        await wrong_pushes_are_refused(publisher, generator, bus, untied=kind == "untied")
        if kind == "tied":  # of the engine, whatever model it holds; untied heads stream below
            await _seeds_and_temperature(publisher, generator)
            await stops_end_a_response(publisher, generator)
            await requests_go_on_over_a_push(publisher, generator, bus)
            await requests_are_given_up(publisher, generator, bus)
            await a_finished_response_waits_for_the_push(publisher, generator, bus)
            await _streamed_pushes(publisher, generator, bus, monkeypatch)
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
async def test_families_whose_checkpoint_has_another_form(family, tmp_path, monkeypatch):
    path = build_tiny_family(tmp_path / "model", family)
    publisher = TorchPublisher(path, run_id=f"test-{family}-{tmp_path.name}")
    generator = await boot(path, blank=True)
    bus = bus_for(publisher, generator)
    try:
        await every_push_is_exact(publisher, generator, bus)
        await _a_single_wrong_bit_shows(publisher, generator, bus)
        served = bus.last_version
        before = await sample(generator)
        publisher.perturb(5)
        publisher.skip = OTHERS[family]
        with pytest.raises(WeightPushError, match=rf"missing \['{publisher.skip}'\]"):
            await bus.publish()
        publisher.skip = None
        with pytest.raises(WeightPushError, match="probe"):
            await publish_something_else(publisher, bus)
        assert (await generator.health()).version == served
        after = await sample(generator)
        assert [t.response_ids for t in after] == [t.response_ids for t in before]
        await bus.publish()
        await _streamed_pushes(publisher, generator, bus, monkeypatch)
    finally:
        await generator.close()
        publisher.sender.close()


async def _nothing_is_sampled_before_a_push(publisher, generator, bus):
    """The engine has read no weights: whoever asks it waits for a version that is committed."""
    waiting = asyncio.create_task(sample(generator))
    good = {n: p.detach().clone() for n, p in publisher.model.named_parameters()}
    with pytest.raises(WeightPushError, match="has no weights"):
        await generator.logprobs([[7, 40]])
    for refused in ("checksum", "probe"):  # before anything is loaded, and after
        publisher.flip_byte = 5 if refused == "checksum" else None
        with pytest.raises(WeightPushError, match=refused):
            await publish_something_else(publisher, bus)
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
    publisher.flip_byte = None
    publisher.model.load_state_dict(good, strict=False)
    report = await bus.publish()
    assert {e.versions[-1] for e in await waiting} == {report.version}


async def _a_single_wrong_bit_shows(publisher, generator, bus, *, within=1e-3):
    """In any tensor, packed by the kernel or not, and far below what the probe sees."""
    whole = await generator.kernel_digest()
    names = [name for name, p in publisher.model.named_parameters() if p.ndim > 1]
    kinds = {name.rsplit(".", 2)[-2]: name for name in names}
    for name in [*kinds.values(), "nothing"]:
        bits = None if name == "nothing" else publisher.bits(name)
        if bits is not None:
            bits[-1] ^= 1
        assert (await bus.publish()).probe_logprob_diff_max < within
        found = await generator.kernel_digest()
        assert found.layouts == whole.layouts
        assert (found.contents == whole.contents) is (bits is None), name
        if bits is not None:
            bits[-1] ^= 1


async def _seeds_and_temperature(publisher, generator):
    group = await sample(generator, n=3, seed=11)
    (alone,) = await sample(generator, n=1, seed=13)
    assert alone.response_ids == group[2].response_ids  # child k uses seed + k
    warm = await sample(generator, temperature=0.7)
    assert worst_gap(publisher, warm, temperature=0.7) < 1e-3
    assert worst_gap(publisher, warm, temperature=1.0) > 1e-2  # negative control


async def _streamed_pushes(publisher, generator, bus, monkeypatch):
    """Beside the trainer, then as if on another host; in buckets smaller than a fused layer."""
    staged = await _bits(generator)  # of the weights that the trainer holds, pushed as a whole
    for memory in (shared_memory_id(), "where the trainer is"):
        monkeypatch.setattr(stream_sender, "shared_memory_id", lambda memory=memory: memory)
        publisher.stream = StreamSender(
            GlooWire(),
            run_id=publisher.sender.run_id,
            host="127.0.0.1",
            timeout_s=60.0,
            bucket_bytes=20_000,
        )
        before, bus = (
            bus.last_version,
            bus_for(publisher, generator, memory=shared_memory_id()),
        )
        bus.last_version = before
        try:
            await bus.publish()
            assert await _bits(generator) == staged
            await every_push_is_exact(publisher, generator, bus)
            await _what_was_streamed_is_undone(publisher, generator, bus, monkeypatch)
            publisher.perturb(30)
            await bus.publish()
            staged = await _bits(generator)
            bus._fleet.out_of_sync("g")
            generator._pushes.version = 0  # as an engine that joins late
            assert await bus.catch_up("g") and bus._fleet.serving() == ["g"]
            assert await _bits(generator) == staged
        finally:
            publisher.stream.close()
            publisher.stream = None
    await _publish_as_a_whole(publisher, bus)
    assert await _bits(generator) == staged


async def _publish_as_a_whole(publisher, bus):
    assert publisher.stream is None
    await bus.publish()


async def _bits(generator) -> list[list[float]]:
    """Log-probs that no other weights have; equal means equal to the last bit."""
    return await generator.logprobs([list(range(5, 40)), [7, 8, 9]])


async def _what_was_streamed_is_undone(publisher, generator, bus, monkeypatch):
    """Whole layers hold the new version when the damage is found; then all of them do."""
    served, held = bus.last_version, await _bits(generator)
    good = {n: p.detach().clone() for n, p in publisher.model.named_parameters()}
    publisher.perturb(98)
    seal = buckets.seal

    def seal_then_damage(bucket, slot, **options):
        seal(bucket, slot, **options)
        slot[70] ^= bucket.number == 9

    monkeypatch.setattr(stream_sender, "seal", seal_then_damage)
    with pytest.raises(WeightPushError, match=r"bucket 9, from .* its number or its checksum"):
        await bus.publish()
    monkeypatch.setattr(stream_sender, "seal", seal)
    assert (await generator.health()).version == served and await _bits(generator) == held
    with pytest.raises(WeightPushError, match="probe"):
        await publish_something_else(publisher, bus)
    assert (await generator.health()).version == served and await _bits(generator) == held
    assert bus._fleet.serving() == ["g"]
    publisher.model.load_state_dict(good, strict=False)
    assert worst_gap(publisher, await sample(generator)) < 1e-3


async def test_a_cache_in_fp8_keeps_to_the_bound_of_its_precision(tiny_model, tmp_path):
    """It rounds keys and values, not weights: pushes still arrive bit by bit."""
    publisher = TorchPublisher(tiny_model, run_id=f"fp8-{tmp_path.name}")
    generator = await boot(tiny_model, blank=True, kv_cache_dtype=KVCacheDtype.fp8)
    bus = bus_for(publisher, generator, quantized=True)
    try:
        for seed in range(2):
            publisher.perturb(seed)
            report = await bus.publish()
            assert 1e-2 < report.probe_logprob_diff_mean < QUANTIZED_MEAN_DIFF
        await _a_single_wrong_bit_shows(publisher, generator, bus, within=1.0)
        with pytest.raises(WeightPushError, match=f"bound {QUANTIZED_MEAN_DIFF}"):
            await publish_something_else(publisher, bus)
    finally:
        await generator.close()
        publisher.sender.close()


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
        "    from rlpost.weights import vllm_plugin, vllm_reload\n"
        "    vllm_plugin.register()\n"
        "    vllm_reload.OpenReload._repack_tied_head = lambda self: None\n"
    )
    info = tmp_path / "skip_head-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: skip-head\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nskip_head = skip_head:register\n"
    )
    assert hasattr(vllm_reload.OpenReload, "_repack_tied_head")
    return tmp_path
