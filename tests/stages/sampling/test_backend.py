"""What a plan refuses of SGLang."""

from pathlib import Path

import pytest
from sglang_stand_in import interpreter

from rlpost.cluster.session import ClusterConfig, Device
from rlpost.errors import UserError
from rlpost.rollout.generator_config import AdapterCapacity, Backend, GeneratorConfig
from rlpost.rollout.sglang.config import SglangConfig
from rlpost.stages.sampling.backend import require_architecture, require_backend, require_pushes
from rlpost.weights.transports.choice import Transport

SGLANG = GeneratorConfig(backend=Backend.sglang)
VLLM = GeneratorConfig()


def looked_at(python, *, cluster=None):
    cfg = GeneratorConfig(backend=Backend.sglang, sglang=SglangConfig(python=python))
    require_backend(cfg, cluster=cluster or ClusterConfig(), device=Device.cpu)


def test_a_missing_package_is_named_with_its_way_out(tmp_path):
    looked_at(interpreter(tmp_path))
    for python, why in ((None, "has no package sglang"), (str(tmp_path / "none"), "cannot be run")):
        with pytest.raises(UserError, match=why) as error:
            looked_at(python)
        assert "pip install sglang" in str(error.value)
    old = Path(interpreter(tmp_path))
    old.write_text("#!/bin/sh\necho 0.5.9.post1\n")
    with pytest.raises(UserError, match=r"SGLang is 0\.5\.9\.post1, older than 0\.5\.23"):
        looked_at(str(old))
    looked_at(None, cluster=ClusterConfig(address="10.0.0.1:6379"))  # it is elsewhere
    require_backend(VLLM, cluster=ClusterConfig(), device=Device.cpu)


def pushed(cfg, *, transport=Transport.auto, adapters=None, address=None):
    cluster = ClusterConfig(address=address)
    require_pushes(cfg, transport=transport, adapters=adapters, cluster=cluster)


def test_what_cannot_be_pushed_is_refused():
    room = AdapterCapacity(rank=8, versions=2)
    refused = {
        "takes whole models": {"adapters": room},
        "gloo does not reach": {"transport": Transport.gloo},
        "transport=auto may choose": {"address": "10.0.0.1:6379"},
    }
    for why, options in refused.items():
        with pytest.raises(UserError, match=why):
            pushed(SGLANG, **options)
        pushed(VLLM, **options)
    pushed(SGLANG)
    pushed(SGLANG, transport=Transport.filesystem, address="10.0.0.1:6379")


def test_architectures_are_those_of_the_backend():
    require_architecture(SGLANG, "NoSuchModel", field="model.path")
    with pytest.raises(UserError, match="vLLM has no NoSuchModel"):
        require_architecture(VLLM, "NoSuchModel", field="model.path")
