"""Which room for adapters a run's engines get."""

from types import SimpleNamespace

import pytest

from rlpost.cluster.session import ClusterConfig, Device
from rlpost.control.placement import Placement
from rlpost.errors import UserError
from rlpost.rollout.generator_config import AdapterCapacity, Backend, GeneratorConfig
from rlpost.stages.sampling.generator_settings import (
    adapter_capacity,
    refuse_sleep,
    resolve_pushed,
    resolve_sleep,
)
from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.adapters.config import LoRAConfig
from rlpost.weights.publisher import WeightsConfig
from rlpost.weights.transports.choice import Transport


def trained(**options) -> Adaptation:
    merges = options.pop("merges", None)
    return Adaptation(
        config=LoRAConfig(**options), base="", base_name="", num_trainable=1, merges=merges
    )


def capacity(adapter, **changes):
    options = {"architecture": "LlamaForCausalLM", "has_experts": False, "device": Device.cpu}
    return adapter_capacity(adapter, **{**options, "max_staleness": 0, **changes})


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (4, 8), (16, 16), (17, 32), (512, 512)])
def test_room_is_what_vllm_can_be_built_for(rank, room):
    found = capacity(trained(rank=rank), max_staleness=2)
    assert found == AdapterCapacity(rank=room, versions=4)


def test_whole_models_need_no_room():
    """Also where the base that is trained on is not the one on disk."""
    assert capacity(None, max_staleness=2) is None
    assert capacity(trained(merges="earlier"), max_staleness=2) is None
    assert capacity(trained(modules_to_save=["embed_tokens"]), max_staleness=2) is None


def test_what_no_engine_can_hold_is_refused():
    with pytest.raises(UserError, match=r"adapter\.rank must be at most 512 .* got 513"):
        capacity(trained(rank=513), max_staleness=0)


def test_an_architecture_that_holds_no_adapter_is_refused():
    assert capacity(None, architecture="GPT2LMHeadModel") is None
    assert capacity(trained(merges="earlier"), architecture="GPT2LMHeadModel") is None
    with pytest.raises(UserError, match=r"no adapter beside GPT2LMHeadModel; .*adapter=none"):
        capacity(trained(rank=8), architecture="GPT2LMHeadModel")


def test_a_mixture_of_experts_holds_adapters_on_gpus_alone():
    mixture = {"architecture": "Qwen3MoeForCausalLM", "has_experts": True}
    assert capacity(trained(rank=8), **mixture, device=Device.cuda) is not None
    assert capacity(trained(merges="earlier"), **mixture) is None  # it is pushed whole
    with pytest.raises(UserError, match=r"on a CPU .* Qwen3MoeForCausalLM, .*adapter=none"):
        capacity(trained(rank=8), **mixture)


def sleep(
    asked: bool | None, *, idle: bool = True, address: str | None = None, **changes
) -> bool | None:
    placement = changes.pop("placement", Placement.colocated)
    transport = changes.pop("transport", Transport.auto)
    given = {"device": Device.cuda, "adapters": None, "runs_ahead": False} | changes
    return resolve_sleep(
        GeneratorConfig(sleep=asked),
        cluster=ClusterConfig(placement=placement, offload_idle=idle, address=address),
        weights=WeightsConfig(transport=transport),
        **given,
    ).sleep


def test_engines_sleep_where_they_share_gpus_with_what_leaves():
    assert sleep(None) is sleep(True) is True
    assert sleep(False) is False
    assert sleep(None, address="auto", transport=Transport.shared_memory) is True


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"device": Device.cpu}, "needs GPUs to leave, and this run is on a CPU; leave it out"),
        ({"placement": Placement.packed}, "no effect with cluster.placement=packed"),
        ({"idle": False}, "needs cluster.offload_idle=true"),
        ({"runs_ahead": True}, "do both at once"),
        ({"adapters": AdapterCapacity(rank=8, versions=2)}, "only an adapter is pushed"),
        ({"transport": Transport.gloo}, "weights.transport=gloo keeps none there"),
        ({"address": "auto"}, "weights.transport=auto keeps none there, or not on every host"),
    ],
)
def test_where_they_cannot_they_do_not_and_whoever_asks_is_told_why(change, error):
    assert sleep(None, **change) is False
    with pytest.raises(UserError, match=f"generator.sleep=true .*{error}"):
        sleep(True, **change)


def test_nobody_sleeps_where_nothing_trains():
    refuse_sleep(GeneratorConfig())
    with pytest.raises(UserError, match="nothing trains beside"):
        refuse_sleep(GeneratorConfig(sleep=True))


def pushed(compare_every: int | None, *, backend=Backend.vllm, adapters=None) -> None:
    cfg = SimpleNamespace(
        generator=GeneratorConfig(backend=backend),
        weights=WeightsConfig(compare_every=compare_every),
        cluster=ClusterConfig(),
    )
    resolve_pushed(cfg.generator, cfg, device=Device.cpu, adapters=adapters, runs_ahead=False)


def test_a_comparison_of_engines_that_would_never_come_is_refused():
    room = AdapterCapacity(rank=8, versions=2)
    pushed(3)
    pushed(None, adapters=room)
    pushed(WeightsConfig().compare_every, adapters=room)
    with pytest.raises(UserError, match=r"weights\.compare_every=3 has no effect where only an ad"):
        pushed(3, adapters=room)
    with pytest.raises(UserError, match=r"weights\.compare_every=3 .*generator\.backend=sglang"):
        pushed(3, backend=Backend.sglang)
