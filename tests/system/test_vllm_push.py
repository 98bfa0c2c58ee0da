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
    wrong_pushes_are_refused,
)
from pushed_models import TorchPublisher, boot, bus_for, sample, worst_gap
from tiny_families import build_tiny_family

from rlpost.errors import WeightPushError
from rlpost.weights import vllm_plugin
from rlpost.weights.transports import gloo
from rlpost.weights.transports.gloo import GlooSender
from rlpost.weights.transports.shared_memory import shared_memory_directory, shared_memory_id


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
        await _a_single_wrong_bit_shows(publisher, generator, bus)
        await wrong_pushes_are_refused(publisher, generator, bus, untied=kind == "untied")
        await _seeds_and_temperature(publisher, generator)
        await stops_end_a_response(publisher, generator)
        await requests_go_on_over_a_push(publisher, generator, bus)
        await requests_are_given_up(publisher, generator, bus)
        await a_finished_response_waits_for_the_push(publisher, generator, bus)
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


async def _a_single_wrong_bit_shows(publisher, generator, bus):
    """In any tensor, packed by the kernel or not, and far below what the probe sees."""
    whole = await generator.kernel_digest()
    names = [name for name, p in publisher.model.named_parameters() if p.ndim > 1]
    kinds = {name.rsplit(".", 2)[-2]: name for name in names}
    for name in [*kinds.values(), "nothing"]:
        bits = None if name == "nothing" else publisher.bits(name)
        if bits is not None:
            bits[-1] ^= 1
        assert (await bus.publish()).probe_logprob_diff_max < 1e-3
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


async def _pushes_from_another_host(publisher, generator, bus, monkeypatch):
    """Over gloo, into a file in place: the old version serves until the new one is loaded."""
    monkeypatch.setattr(gloo, "shared_memory_id", lambda: "where the trainer is")
    before, near = bus.last_version, publisher.sender
    far = GlooSender(host="127.0.0.1", timeout_s=60.0, pages=near)
    bus = bus_for(publisher, generator, memory=shared_memory_id())
    bus.last_version, publisher.sender = before, far
    try:
        await every_push_is_exact(publisher, generator, bus)
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
            await publish_something_else(publisher, bus)
        assert bus._fleet.stale() == ["g"]
        await every_push_is_exact(publisher, generator, bus)
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
