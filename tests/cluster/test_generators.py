"""A call that is part of a push ends when the bus says so, however short other calls may be."""

import inspect

import pytest

from rlpost.bounds import WEEK_S
from rlpost.cluster.generators import RemoteGenerator
from rlpost.cluster.ranks import Ranks
from rlpost.cluster.trained import WeightSource
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.weights.protocol import Publisher, PushTarget
from rlpost.weights.transports.protocol import Locator

LONGEST_S = 3 * WEEK_S  # of a joint transfer with the longest ``weights.timeout_s``
ARGUMENTS = {
    "version": 1, "locator": None, "first_rank": 1, "sequences": [[1, 2]], "seats": [],
}  # fmt: skip


class Recording:
    """A handle that notes the deadlines it is given, and answers like rank 0."""

    name = "actor"

    def __init__(self) -> None:
        self.deadlines: list[float | None] = []

    async def call(self, method, *args, timeout_s=None, **kwargs):
        self.deadlines.append(timeout_s)
        return Locator(transport="shared_memory", manifest={}, where={})


async def called(owner, verb) -> None:
    wanted = inspect.signature(getattr(owner, verb)).parameters
    await getattr(owner, verb)(**{name: ARGUMENTS[name] for name in wanted})


def verbs_of(protocol) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


@pytest.mark.parametrize("verb", sorted({*verbs_of(PushTarget)} - {"kill"}))  # which is no call
async def test_the_bus_ends_what_a_generator_does_in_a_push(verb):
    handle = Recording()
    generator = RemoteGenerator(handle, GeneratorConfig(), ping_timeout_s=7.0)
    await called(generator, verb)
    await generator.health()
    assert handle.deadlines == [pytest.approx(LONGEST_S), 7.0]


@pytest.mark.parametrize("verb", verbs_of(Publisher))
async def test_the_bus_ends_what_a_rank_does_in_a_push(verb):
    """All but what moves no bytes, which waits for the rank alone."""
    handle = Recording()
    await called(WeightSource(Ranks(lambda: [handle], settings={})), verb)
    expected = None if verb == "announce_again" else pytest.approx(LONGEST_S)
    assert handle.deadlines
    assert all(each == expected for each in handle.deadlines)
