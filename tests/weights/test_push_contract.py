"""The fake that tests of the bus push to keeps what the bus relies on, as real engines do."""

import pytest
from fakes import FakeGenerator, FakePublisher, seat
from push_contract import what_the_bus_relies_on


async def staged(version, damaged):
    return await FakePublisher(damaged=damaged).stage(version, seats=[seat()])


async def test_the_fake_keeps_what_the_bus_relies_on():
    generator = FakeGenerator()
    assert await what_the_bus_relies_on(generator, staged) == generator.version == 3


@pytest.mark.parametrize("verb", ["receive", "abort_push", "commit_push"])
async def test_a_fake_that_breaks_a_promise_is_found(verb, monkeypatch):
    async def forgets(self, *args, **options):
        return 0

    monkeypatch.setattr(FakeGenerator, verb, forgets)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await what_the_bus_relies_on(FakeGenerator(), staged)
