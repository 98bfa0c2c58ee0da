"""Ray's failures in our error model, with real actors in a real session."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rlpost.cluster.handle import Handle, Stateless
from rlpost.cluster.ranks import Ranks
from rlpost.cluster.session import ClusterConfig, Device, Session, resolve_device
from rlpost.errors import GroupLost, NoAnswer, ProcessDied, UserError, WeightPushError


class Actor:
    def address(self):
        return "here", 1

    def setup(self, answer, *, world_size, master, seed):
        self.built = (answer, world_size, master, seed)
        return answer

    def was_built(self):
        return self.built

    def add(self, a, *, b):
        return a + b

    def store(self):
        import ray

        return [ray.put(np.zeros(10**6))]

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

    def die_once(self, marker):
        if not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(1)
        return "alive"

    def hang_once(self, marker):
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGSTOP)
        return "awake"

    def fail_or_die(self, rank):
        if rank == 0:
            raise RuntimeError("Connection reset by peer")
        time.sleep(0.5)
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
    assert await actor.call("niceness") == os.nice(0)  # that of the driver


async def test_deadline_and_death_are_infrastructure(session):
    actor = handle(session)
    await actor.call("add", 1, b=2)
    with pytest.raises(NoAnswer, match=r"actor 0 did not answer sleep in 0\.3 s"):
        await actor.call("sleep", 2, timeout_s=0.3)
    with pytest.raises(ProcessDied, match="actor 0 is gone"):
        await actor.call("die")


async def test_what_the_object_store_has_lost_is_infrastructure(session):
    actor, owner = handle(session), handle(session)
    (stored,) = await owner.call("store")
    assert (await actor.call("add", stored, b=1)).sum() == 10**6  # negative control
    with pytest.raises(ProcessDied):
        await owner.call("die")
    with pytest.raises(NoAnswer, match=r"actor 0 could not fetch what it was given \(add\): "):
        await handle(session).call("add", stored, b=1)


async def test_a_stateless_actor_is_replaced_and_the_call_repeated(session, tmp_path):
    once = tmp_path / "died"
    ready = [handle(session) for _ in range(3)]
    await asyncio.gather(*(each.call("add", 1, b=2) for each in ready))
    spawned = []

    def spawn() -> Handle:
        spawned.append(ready.pop() if ready else handle(session))
        return spawned[-1]

    actor = Stateless(spawn)
    assert await actor.call("die_once", str(once)) == "alive"
    assert await actor.call("hang_once", str(tmp_path / "hung"), timeout_s=5) == "awake"
    assert len(spawned) == 3
    with pytest.raises(ProcessDied):  # for good
        await Stateless(spawn, attempts=2).call("die")
    with pytest.raises(KeyError):  # a bug is not repeated
        await actor.call("bug")


async def test_a_group_is_lost_with_one_rank_and_comes_back_whole(session):
    def spawn() -> list[Handle]:
        return [handle(session) for _ in range(2)]

    ranks = Ranks(spawn, settings={"answer": 7, "seed": 3})
    assert await ranks.setup() == 7
    assert await ranks.all("add", 1, b=1) == [2, 2]
    with pytest.raises(KeyError):  # a bug of every rank is no loss
        await ranks.all("bug")
    # Rank 1 dies; rank 0 fails first, in the collective they shared, and is not to blame.
    with pytest.raises(GroupLost, match="is gone"):
        await ranks.each("fail_or_die", [0, 1])
    await ranks.restart()
    assert await ranks.all("was_built") == [(7, 2, ("here", 1), 3)] * 2


async def test_neighbours_that_share_micro_batches_answer_once():
    class Echo:
        def __init__(self, rank: int) -> None:
            self.rank = rank

        async def call(self, method, mine):
            asked.append((self.rank, mine))
            return self.rank

    asked = []
    ranks = Ranks(lambda: [Echo(rank) for rank in range(4)], settings={}, sharing=2)
    assert await ranks.each("score", ["a", "b"]) == [0, 2]
    assert asked == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]


def test_a_gpu_that_is_not_there_is_said_at_once():
    import torch

    asked = ClusterConfig(device=Device.cuda)
    if torch.cuda.is_available():
        assert resolve_device(asked) is Device.cuda
    else:
        with pytest.raises(UserError, match=r"cluster\.device=cuda.*sees no GPU here"):
            resolve_device(asked)
    assert resolve_device(ClusterConfig(device=Device.cpu)) is Device.cpu


def test_a_cluster_without_gpus_is_no_place_for_cuda(session):
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no node of the Ray cluster at auto offers a GPU"):
            resolve_device(ClusterConfig(address="auto", device=Device.cuda))
        assert resolve_device(ClusterConfig(address="auto")) is Device.cpu


OUT_OF_MEMORY = """
import asyncio, time
from rlpost.cluster.handle import Handle
from rlpost.cluster.session import ClusterConfig, Session

class Actor:
    def sleep(self): time.sleep(60)

with Session(ClusterConfig()) as session:
    actor = Handle(session.spawn(Actor), name="actor 0", timeout_s=60)
    asyncio.run(actor.call("sleep"))
"""


def test_a_process_killed_for_its_memory_is_dead():
    full = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    result = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY],
        env=os.environ | full, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert "ProcessDied: actor 0 was killed (sleep): its node ran out of memory" in result.stderr
