"""A deadline grows with what has to be moved."""

import pytest
import torch
from fakes import seat

from rlpost.errors import WeightPushError
from rlpost.weights.deadline import Deadline, phase_deadline_s
from rlpost.weights.manifest import describe
from rlpost.weights.publisher import WeightsConfig
from rlpost.weights.transports.choice import Transport, make_senders


def test_the_default_follows_the_bytes_and_an_explicit_one_wins():
    assert WeightsConfig().timeout_s is None
    assert phase_deadline_s(None, 0) == 120
    assert phase_deadline_s(None, 141e9) == pytest.approx(684)
    assert phase_deadline_s(5.0, 141e9) == 5


@pytest.mark.parametrize(("given", "wanted"), [(None, 684), (30.0, 30)])
def test_peers_of_a_broadcast_wait_as_long_as_its_bytes_need(tmp_path, given, wanted):
    senders = make_senders(
        Transport.gloo, run_id=tmp_path.name, root=tmp_path, host="127.0.0.1", timeout_s=given
    )
    layers = [(f"layer{n}", torch.uint8, (47 * 10**6,)) for n in range(3000)]
    try:
        manifest = describe(layers, version=1)
        locator = senders.stream.announce(manifest, seats=[seat("elsewhere")])
    finally:
        senders.close()
    assert locator.where["timeout_s"] == pytest.approx(wanted)


def test_all_waits_of_a_transfer_have_one_end():
    seconds = iter([100.0, 150.0, 159.9, 160.0])
    deadline = Deadline(60, clock=lambda: next(seconds))
    deadline.look("bucket 3")
    deadline.look("bucket 3")
    with pytest.raises(WeightPushError, match=r"did not end in 60 s, and waited for bucket 3"):
        deadline.look("bucket 3")
