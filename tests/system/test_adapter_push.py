"""Adapters pushed into a real vLLM engine: applied exactly, side by side, or refused.

One engine per model; each test is a story of pushes.
"""

import asyncio
from functools import partial

import pytest
from one_rank import trainer
from packed_groups import pack_into, random_groups
from peft_adapters import planned
from pushed_adapters import AdapterPublisher, TrainerPublisher
from pushed_models import boot, bus_for, sample, started, worst_gap
from tiny_families import build_tiny_family

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.errors import RequestAborted, WeightPushError
from rlpost.rollout.generator_config import AdapterCapacity

# Kinds that are served as the plain LoRA that they equal -> their options here
CONVERTED = {
    "adalora": {"rank": 2, "initial_rank": 4},
    "vera": {"rank": 8},
    "pissa": {"rank": 4},
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def lora(**options):
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LINEAR, **options})


async def test_adapters(tiny_model, tmp_path):
    config = lora(rank_pattern={"v_proj": 7}, alpha_pattern={"o_proj": 3})
    publisher = AdapterPublisher(tiny_model, f"adapter-{tmp_path.name}", config)
    generator = await boot(tiny_model, adapters=AdapterCapacity.of(rank=8, max_staleness=1))
    bus = bus_for(publisher, generator)
    try:
        await _the_base_answers_before_the_first_push(publisher, generator)
        await _every_push_is_exact(publisher, generator, bus)
        await _wrong_pushes_are_refused(publisher, generator, bus)
        await _the_probe_alone_finds_out(publisher, generator, bus)
        await _requests_keep_their_version(publisher, generator, bus)
        await _what_is_too_old_makes_room(publisher, generator, bus)
        await _a_refused_push_costs_no_request(publisher, generator, bus)
        for kind, options in CONVERTED.items():
            await _a_converted_kind_is_served(kind, options, tiny_model, tmp_path, generator)
    finally:
        await generator.close()
        publisher.sender.close()


async def _the_base_answers_before_the_first_push(publisher, generator):
    with publisher.model.disable_adapter():
        episodes = await sample(generator)
        assert worst_gap(publisher, episodes) < 1e-3
    assert {version for e in episodes for version in e.versions} == {0}


async def _every_push_is_exact(publisher, generator, bus):
    for seed in range(2):
        publisher.perturb(seed)
        report = await bus.publish()
        assert report.probe_logprob_diff_max < 1e-3
        episodes = await sample(generator)  # the same prompt: a stale prefix would show
        assert worst_gap(publisher, episodes) < 1e-3
        assert {version for e in episodes for version in e.versions} == {report.version}
        assert report.size_bytes == sum(4 * t.numel() for t in publisher.tensors().values())
    with publisher.model.disable_adapter():
        assert worst_gap(publisher, episodes) > 1e-1  # it is the adapter that answers


async def _wrong_pushes_are_refused(publisher, generator, bus):
    served = (await generator.health()).version
    good = publisher.weights
    publisher.perturb(99)
    publisher.flip_byte = 1000
    with pytest.raises(WeightPushError, match="checksum"):
        await bus.publish()
    publisher.flip_byte = None
    publisher.only = "q_proj"
    with pytest.raises(WeightPushError, match="probe"):
        await bus.publish()
    publisher.only = None
    served_as, publisher.served = publisher.served, lambda: {**lora(r=12).to_dict(), "r": 12}
    with pytest.raises(WeightPushError, match=r"rank 12 .* needs \(12,"):
        await bus.publish()
    publisher.served = lambda: {**served_as(), "use_dora": True}
    with pytest.raises(WeightPushError, match="DoRA"):
        await bus.publish()
    publisher.served = served_as
    publisher.become(good)
    assert (await generator.health()).version == served
    assert worst_gap(publisher, await sample(generator)) < 1e-3


async def _the_probe_alone_finds_out(publisher, generator, bus):
    """Everything before it passes: an adapter that nobody applies, an older one, a wrong scale."""
    pushes, good = generator._pushes, publisher.weights
    served = pushes.version
    publisher.perturb(98)
    enter = pushes.enter

    def entered(request_id, *, probes=False, adapter):
        entry = enter(request_id, probes=probes)
        return (
            entry
            if not probes
            else type(entry)(request_id=request_id, version=entry.version, adapter=adapter)
        )

    for adapter in (None, served):
        pushes.enter = partial(entered, adapter=adapter)
        with pytest.raises(WeightPushError, match="probe"):
            await bus.publish()
    pushes.enter = enter
    publisher.scale = 1.1
    with pytest.raises(WeightPushError, match="probe"):
        await bus.publish()
    publisher.scale = 1.0
    publisher.become(good)
    assert worst_gap(publisher, await sample(generator)) < 1e-3


async def _requests_keep_their_version(publisher, generator, bus):
    """Two versions answer side by side, and neither waits for the push."""
    old, version = publisher.weights, generator._pushes.version
    running = await started(generator, n=4)
    publisher.perturb(21)
    report = await bus.publish()
    assert not running.done()
    young = await sample(generator, key="test/young")
    assert worst_gap(publisher, young) < 1e-3
    assert {v for e in young for v in e.versions} == {report.version}
    new = publisher.weights
    episodes = await running
    assert [[s.version for s in e.trajectories[0].spans] for e in episodes] == [[version]] * 4
    publisher.become(old)
    assert worst_gap(publisher, episodes) < 1e-3
    publisher.become(new)
    assert worst_gap(publisher, episodes) > 1e-2


async def _what_is_too_old_makes_room(publisher, generator, bus):
    """The engine holds three; a fourth that a request still holds would be evicted by force."""
    asked = []
    for place in range(4):
        asked.append(await started(generator, key=f"test/{place}", n=4))
        publisher.perturb(30 + place)
        await bus.publish()
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in done[:2]] == [RequestAborted] * 2
    assert [len(each) for each in done[2:]] == [4, 4]
    assert worst_gap(publisher, await sample(generator)) < 1e-3  # and the engine lives


async def _a_refused_push_costs_no_request(publisher, generator, bus):
    running, good = await started(generator, n=2), publisher.weights
    publisher.perturb(40)
    publisher.scale = 0.5
    with pytest.raises(WeightPushError, match="probe"):
        await bus.publish()
    publisher.scale = 1.0
    publisher.become(good)
    assert worst_gap(publisher, await running) < 1e-3
    running = await started(generator, key="test/given up", n=3)
    lengths = await generator.cancel("test/given up")
    assert len(lengths) == 3 and all(0 < n < 400 for n in lengths)
    with pytest.raises(RequestAborted):
        await running


async def _a_converted_kind_is_served(kind, options, path, place, generator):
    """A real trainer's adapter, in the engine and in plain peft; a wrong scale is found out."""
    batches = pack_into(*random_groups(), num_micro_batches=1).batches[0]
    objective = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())
    with trainer(path, model=planned(path, kind, **options), steps=2, lr=1e-2) as built:
        publisher = TrainerPublisher(path, f"{kind}-{place.name}", built)
        bus = bus_for(publisher, generator)
        bus.last_version = (await generator.health()).version
        try:
            for step in (1, 2):
                built.forward_backward(batches, objective)
                built.optim_step(step)
            report = await bus.publish()
            assert report.probe_logprob_diff_max < 1e-3
            episodes = await sample(generator)
            assert {version for e in episodes for version in e.versions} == {report.version}
            assert worst_gap(publisher, episodes) > 1e-2  # the base alone answers otherwise
            publisher.load_export(place / kind)
            assert worst_gap(publisher, episodes) < 1e-3
            publisher.scale = 1.1
            with pytest.raises(WeightPushError, match="probe"):
                await bus.publish()
        finally:
            publisher.sender.close()


async def test_a_family_whose_layers_vllm_fuses_and_renames(tmp_path):
    path = build_tiny_family(tmp_path / "model", "qwen3")
    publisher = AdapterPublisher(path, f"adapter-qwen3-{tmp_path.name}", lora())
    generator = await boot(path, adapters=AdapterCapacity.of(rank=8, max_staleness=0))
    try:
        await _every_push_is_exact(publisher, generator, bus_for(publisher, generator))
    finally:
        await generator.close()
        publisher.sender.close()
