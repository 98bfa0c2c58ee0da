"""Ray's failures in our error model, with real actors in a real session."""

import asyncio
import os
import time

import pytest

from rlpost.cluster.handle import Handle
from rlpost.cluster.session import ClusterConfig, Device, Session, resolve_device
from rlpost.errors import InfrastructureError, UserError, WeightPushError


class Actor:
    def add(self, a, *, b):
        return a + b

    def refuse(self):
        raise WeightPushError("checksum differs")

    def bug(self):
        return {}["missing"]

    def sleep(self, seconds):
        time.sleep(seconds)

    def niceness(self):
        return os.nice(0)

    def die(self):
        os._exit(1)


@pytest.fixture(scope="module")
def session():
    with Session(ClusterConfig()) as session:
        yield session


def handle(session) -> Handle:
    return Handle(session.spawn(Actor), name="actor 0", timeout_s=60)


async def test_calls_and_errors_of_its_own(session):
    actor = handle(session)
    assert await actor.call("add", 1, b=2) == 3
    with pytest.raises(WeightPushError, match="checksum differs"):
        await actor.call("refuse")
    with pytest.raises(KeyError):
        await actor.call("bug")
    assert await actor.call("niceness") == 0


async def test_deadline_and_death_are_infrastructure(session):
    actor = handle(session)
    await actor.call("add", 1, b=2)
    with pytest.raises(InfrastructureError, match=r"actor 0 did not answer sleep in 0\.3 s"):
        await actor.call("sleep", 2, timeout_s=0.3)
    await asyncio.sleep(2)
    with pytest.raises(InfrastructureError, match="actor 0 is gone"):
        await actor.call("die")


def test_a_gpu_that_is_not_there_is_said_at_once():
    import torch

    if torch.cuda.is_available():
        assert resolve_device(Device.cuda) is Device.cuda
    else:
        with pytest.raises(UserError, match=r"cluster\.device=cuda"):
            resolve_device(Device.cuda)
