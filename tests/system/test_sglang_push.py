"""Pushes into an SGLang server: the same contract as vLLM's, kept by the stand-in for SGLang."""

import asyncio
from pathlib import Path

import psutil
import pytest
from push_contract import (
    a_finished_response_waits_for_the_push,
    every_push_is_exact,
    requests_are_given_up,
    requests_go_on_over_a_push,
    stops_end_a_response,
    what_the_bus_relies_on,
    wrong_pushes_are_refused,
)
from pushed_models import TorchPublisher, boot, bus_for, sample, worst_gap
from sglang_stand_in import interpreter

from rlpost.errors import NoAnswer, ProcessDied, WeightPushError
from rlpost.rollout.generator_config import Backend
from rlpost.rollout.sglang.config import SglangConfig
from rlpost.weights.transports.shared_memory import shared_memory_directory


def settings(tmp_path, **options):
    sglang = SglangConfig(python=interpreter(tmp_path), **options)
    return {"backend": Backend.sglang, "sglang": sglang}


async def test_pushes(tiny_untied_model, tmp_path):
    publisher = TorchPublisher(tiny_untied_model, run_id=f"test-sglang-{tmp_path.name}")
    generator = await boot(tiny_untied_model, **settings(tmp_path, deterministic=True))
    bus = bus_for(publisher, generator)
    try:
        await every_push_is_exact(publisher, generator, bus)
        bus.last_version = await what_the_bus_relies_on(generator, publisher.stage_changed)
        await wrong_pushes_are_refused(publisher, generator, bus, untied=True)
        await stops_end_a_response(publisher, generator)
        await requests_go_on_over_a_push(publisher, generator, bus)
        await requests_are_given_up(publisher, generator, bus)
        await a_finished_response_waits_for_the_push(publisher, generator, bus)
        await _a_prefix_of_other_weights_would_show(publisher, generator, bus)
        await _a_load_that_fails_is_undone(publisher, generator, bus)
        await _only_one_version_is_kept(generator)
        await _its_death_is_infrastructure(generator)
    finally:
        await generator.close()
        publisher.sender.close()
    assert not [*shared_memory_directory().glob("rlpost-sglang-*")]
    assert not [each for each in psutil.Process().children(recursive=True) if _serves(each)]


def _serves(process):
    ended = process.status() == psutil.STATUS_ZOMBIE  # another test's, which has no command line
    return not ended and "sglang.launch_server" in process.cmdline()


async def _a_prefix_of_other_weights_would_show(publisher, generator, bus):
    """Negative control of the flush: without it the stand-in goes on from old prefixes."""
    engine = generator._engine
    ask = engine._server.ask

    async def without_flush(method, path, body=None, **options):
        if path == "/update_weights_from_disk":
            body = {**body, "flush_cache": False}
        return await ask(method, path, body, **options)

    await sample(generator)
    engine._server.ask = without_flush
    publisher.perturb(31)
    await bus.publish()
    assert worst_gap(publisher, await sample(generator)) > 1e-2
    engine._server.ask = ask
    await every_push_is_exact(publisher, generator, bus)


async def _a_load_that_fails_is_undone(publisher, generator, bus):
    """SGLang says that it rolled back, and has loaded a part: the old version is loaded again."""
    served, before = bus.last_version, await sample(generator)
    good = {n: p.detach().clone() for n, p in publisher.model.named_parameters()}
    payloads = generator._engine._payloads
    written = payloads._written

    def misshapen(tensors, *, version):
        name = "model.layers.1.mlp.up_proj.weight"
        return written({**tensors, name: tensors[name][:, :3].contiguous()}, version=version)

    payloads._written = misshapen
    publisher.perturb(32)
    with pytest.raises(WeightPushError, match="SGLang did not load version"):
        await bus.publish()
    payloads._written = written
    assert (await generator.health()).version == served
    assert [e.response_ids for e in await sample(generator)] == [e.response_ids for e in before]
    publisher.model.load_state_dict(good, strict=False)
    assert worst_gap(publisher, await sample(generator)) < 1e-3


async def _only_one_version_is_kept(generator):
    payloads = generator._engine._payloads
    assert [*payloads._root.iterdir()] == [payloads.committed]


async def _its_death_is_infrastructure(generator):
    """A token that no vocabulary has ends SGLang's scheduler, and its server with it."""
    running = asyncio.create_task(sample(generator, max_tokens=400))
    await asyncio.sleep(0.3)
    with pytest.raises(ProcessDied, match="SGLang's server died: it ended with status 1"):
        await generator.logprobs([[10**6, 5]])
    with pytest.raises(ProcessDied):
        await running
    for verb in (generator.health, lambda: generator.begin_push(10**6)):
        with pytest.raises(ProcessDied):
            await verb()


async def test_an_engine_that_does_not_come_up_is_infrastructure(tiny_model, tmp_path):
    file = Path(interpreter(tmp_path))
    file.write_text("#!/bin/sh\nexit 3\n")
    sglang = SglangConfig(python=str(file))
    with pytest.raises(ProcessDied, match="did not come up; it ended with status 3"):
        await boot(tiny_model, backend=Backend.sglang, sglang=sglang)


async def test_whoever_has_no_key_is_refused(tiny_model, tmp_path):
    generator = await boot(tiny_model, **settings(tmp_path))
    server = generator._engine._server
    try:
        (process,) = filter(_serves, psutil.Process().children(recursive=True))
        assert {each.laddr.ip for each in process.net_connections()} == {"127.0.0.1"}
        assert server._client._session.headers["Authorization"].removeprefix("Bearer ") not in (
            " ".join(process.cmdline())
        )
        server._client._session.headers["Authorization"] = "Bearer guess"
        with pytest.raises(NoAnswer, match="401"):
            await generator.health()
    finally:
        await generator.close()
