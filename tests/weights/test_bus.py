"""The transaction, driven with fakes: what commits, what aborts, who is named."""

import pytest
from fakes import FakeGenerator, FakePublisher

from rlpost.errors import InfrastructureError, WeightPushError
from rlpost.weights.bus import WeightBus, logprob_difference


def make_bus(publisher, generators, **kwargs) -> WeightBus:
    return WeightBus(
        publisher,
        receivers=generators,
        workers=dict.fromkeys(generators, 1),
        probe=[[1, 2, 3], [4, 5]],
        exact=True,
        **{"timeout_s": 2.0, **kwargs},
    )


async def test_commits_everywhere_and_reports():
    generators = {"a": FakeGenerator(), "b": FakeGenerator()}
    publisher = FakePublisher()
    report = await make_bus(publisher, generators).publish()
    assert report.version == 1 and report.probe_logprob_diff_max == 0.0
    assert [g.version for g in generators.values()] == [1, 1]
    assert generators["a"].calls == ["begin", "receive", "load", "logprobs", "commit"]
    assert publisher.released == [1]


async def test_unfaithful_load_is_refused_everywhere():
    """The probe is what catches it: with a loose bound the same push commits."""
    generators = {"good": FakeGenerator(), "bad": FakeGenerator(broken_load=True)}
    bus = make_bus(FakePublisher(), generators)
    with pytest.raises(WeightPushError, match="probe of bad differs"):
        await bus.publish()
    assert [g.version for g in generators.values()] == [0, 0]
    assert all(g.calls[-1] == "abort" for g in generators.values())
    loose = {"bad": FakeGenerator(broken_load=True)}
    await make_bus(FakePublisher(), loose, max_diff=1.0).publish()
    assert loose["bad"].version == 1


async def test_damaged_payload_is_refused_before_loading():
    generator = FakeGenerator()
    with pytest.raises(WeightPushError, match="checksum"):
        await make_bus(FakePublisher(damaged=True), {"g": generator}).publish()
    assert "load" not in generator.calls and generator.version == 0


async def test_versions_are_never_reused_after_an_abort():
    publisher = FakePublisher(damaged=True)
    bus = make_bus(publisher, {"g": FakeGenerator()})
    with pytest.raises(WeightPushError):
        await bus.publish()
    publisher.damaged = False
    assert (await bus.publish()).version == 2


@pytest.mark.parametrize("phase", ["begin", "receive", "load", "logprobs", "commit"])
async def test_a_deadline_names_who_is_missing(phase):
    generators = {"quick": FakeGenerator(), "slow one": FakeGenerator(hang=phase)}
    with pytest.raises(InfrastructureError, match="slow one did not finish"):
        await make_bus(FakePublisher(), generators, timeout_s=0.2).publish()


def test_nan_counts_as_infinite_difference():
    assert logprob_difference([[float("nan"), 0.0]], [[0.0, 0.0]])[1] == float("inf")
    assert logprob_difference([[1.0, 2.0]], [[1.5, 2.0]]) == (0.25, 0.5)
