"""Generators without a trainer serve what is on disk."""

from rlpost.control.fleet import Fleet
from rlpost.weights.standing import DISK_VERSION, StandingWeights


async def test_a_generator_that_came_up_serves_at_once_and_after_a_restart():
    fleet = Fleet(["generator 0", "generator 1"])
    weights = StandingWeights(fleet)
    assert weights.has_served and not weights.engaged
    assert not await weights.catch_up("generator 0")  # it is still starting
    fleet.booted("generator 0")
    assert await weights.catch_up("generator 0")
    assert fleet.serving() == ["generator 0"]
    assert fleet.members["generator 0"].version == DISK_VERSION
    fleet.died("generator 0", incarnation=0, reason="killed")
    fleet.restarting("generator 0")
    assert not await weights.catch_up("generator 0")
    fleet.booted("generator 0")
    assert await weights.catch_up("generator 0") and fleet.serving() == ["generator 0"]
