"""Which transports are refused before anything starts, in words that say the way out."""

import pytest

from rlpost.errors import UserError
from rlpost.weights.publisher import WeightsConfig, sender_factory
from rlpost.weights.transports.choice import WIRES, Transport, require_places

PLACES = {"trainer": "n1", "generators": ["n1", "n1"], "shares_gpu": False, "without_rank": 0}


@pytest.mark.parametrize("transport", list(Transport), ids=lambda each: each.value)
def test_what_moves_gpu_memory_is_refused_on_cpus(transport, tmp_path):
    def build(*, on_gpu: bool):
        cfg = WeightsConfig(transport=transport)
        return sender_factory(cfg, run_id="r", root=tmp_path, on_gpu=on_gpu)

    assert callable(build(on_gpu=True))
    if transport in (Transport.nccl, Transport.cuda_ipc):
        with pytest.raises(UserError, match=rf"{transport.value} moves weights between GPUs"):
            build(on_gpu=False)
    else:
        assert callable(build(on_gpu=False))


@pytest.mark.parametrize(
    ("transport", "change", "words"),
    [
        (Transport.cuda_ipc, {"without_rank": 1}, "1 of the generators share theirs with none"),
        (Transport.shared_memory, {"generators": ["n2", "n3"]}, "2 of their hosts are others"),
        (Transport.nccl, {"shares_gpu": True}, "NCCL refuses two members on one"),
    ],
)
def test_what_does_not_reach_everybody_is_refused(transport, change, words):
    require_places(transport, **PLACES)
    with pytest.raises(UserError, match=words):
        require_places(transport, **{**PLACES, **change})
    require_places(Transport.gloo, **{**PLACES, **change})


def test_every_stream_has_a_wire_of_its_name():
    assert {each.value for each in WIRES} == {"gloo", "nccl", "cuda_ipc"}
    assert WIRES[Transport.gloo]().name == "gloo"
