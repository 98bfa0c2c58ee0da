"""A deadline grows with what has to be moved."""

import pytest
from fakes import seat

from rlpost.weights.deadline import phase_deadline_s
from rlpost.weights.manifest import PushManifest, TensorEntry
from rlpost.weights.publisher import WeightsConfig
from rlpost.weights.transports.choice import Transport, make_sender


def test_the_default_follows_the_bytes_and_an_explicit_one_wins():
    assert WeightsConfig().timeout_s is None
    assert phase_deadline_s(None, 0) == 120
    assert phase_deadline_s(None, 141e9) == pytest.approx(684)
    assert phase_deadline_s(5.0, 141e9) == 5


@pytest.mark.parametrize(("given", "wanted"), [(None, 684), (30.0, 30)])
def test_peers_of_a_broadcast_wait_as_long_as_its_bytes_need(tmp_path, given, wanted):
    sender = make_sender(
        Transport.gloo, run_id=tmp_path.name, root=tmp_path, host="127.0.0.1", timeout_s=given
    )
    large = TensorEntry(
        name="w", dtype="uint8", shape=(1,), offset=0, size_bytes=141 * 10**9, checksum=""
    )
    try:
        manifest = PushManifest(version=1, entries=(large,))
        locator = sender.announce(manifest, seats=[seat("elsewhere")])
    finally:
        sender.close()
    assert locator.where["timeout_s"] == pytest.approx(wanted)
