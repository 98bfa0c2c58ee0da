"""The cost of the driver alone: simulated generators, real producer, dispatch and accounting.

    .venv/bin/python benchmarks/driver_load.py --rate 5000 --seconds 30
    .venv/bin/python benchmarks/driver_load.py --rate 0 --trajectories 1000000
    .venv/bin/python benchmarks/driver_load.py --packed-tokens 5000000 [--in-calls]

Generators answer after a while with responses of 32 tokens, made once; ``--rate`` sets how many
trajectories finish a second (0: as fast as the driver can). Printed: trajectories a second, CPU
seconds a second of the whole process, and resident memory on the way.

``--packed-tokens`` hands one step's batch to actors without a model instead, as PPO with a
reference does: three models score it, two train on it, and what was scored becomes columns.
``--in-calls`` sends the micro-batches in each call, as before there was a batch store.
"""

import argparse
import asyncio
import itertools
import time

import numpy as np
import psutil

from rlpost.algorithms.diagnostics import Tally
from rlpost.cluster.handle import Handle, Stateless
from rlpost.cluster.ranks import Ranks
from rlpost.cluster.reference import ReferenceGroup
from rlpost.cluster.scorers import Copies
from rlpost.cluster.session import ClusterConfig, Session
from rlpost.cluster.trained import TrainedGroup
from rlpost.control.failures import Budget, FailureConfig
from rlpost.control.fleet import Fleet
from rlpost.control.ledger import Ledger
from rlpost.control.staleness import Staleness, StalenessConfig
from rlpost.rollout.collector import Collector
from rlpost.rollout.dispatch import Dispatcher
from rlpost.rollout.producer import Producer, PromptStream
from rlpost.rollout.signal import Signal
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.step_size import StepSize
from rlpost.training.packing.units import Unit
from rlpost.types import (
    Episode,
    GenerationRequest,
    Group,
    Prompt,
    SamplingConfig,
    Span,
    Trajectory,
    Verdict,
)
from rlpost.verifiers.combine import Combination

GROUP, BATCH, ROWS, TOKENS = 8, 128, 10_000, 32


class SimulatedGenerator:
    """Answers after ``delay_s``; serves the version in the shared state."""

    def __init__(self, served: list[int], *, delay_s: float) -> None:
        self._served, self._delay_s = served, delay_s

    async def generate(self, request: GenerationRequest) -> tuple[Episode, ...]:
        version = self._served[0]
        await asyncio.sleep(self._delay_s)
        return tuple(
            Episode(
                uid=request.prompt.uid,
                sample=sample,
                trajectories=(
                    Trajectory(
                        prompt_ids=request.prompt.token_ids,
                        response_ids=tuple(range(TOKENS)),
                        spans=(Span(start=0, end=TOKENS, version=version),),
                        rollout_logprobs=(-1.0,) * TOKENS,
                    ),
                ),
                finish_reason="stop",
                text="",
                seed=request.seed + sample,
            )
            for sample in range(request.num_samples)
        )

    async def cancel(self, key: str) -> list[int]:
        return []


class SimulatedJudge:
    """Agrees at once."""

    async def judge(self, group: Group) -> list[tuple[Verdict, ...]]:
        return [(Verdict(verifier="v", reward=1.0),)] * len(group.episodes)


class World:
    """A fleet whose generators take a new version at once."""

    def __init__(self, num: int) -> None:
        self.fleet = Fleet([f"generator {index}" for index in range(num)])
        self.served = [0]
        for name in self.fleet.members:
            self.fleet.booted(name)

    def push(self, version: int) -> None:
        self.served[0] = version
        for name in self.fleet.members:
            self.fleet.synced(name, incarnation=0, version=version)


def build(args: argparse.Namespace, world: World) -> Producer:
    fleet, served = world.fleet, world.served
    delay_s = (2 * BATCH * GROUP) / args.rate if args.rate else 0.0
    generators = {name: SimulatedGenerator(served, delay_s=delay_s) for name in fleet.members}
    rows = (divmod(n, ROWS) for n in itertools.count())

    def find(uid: str) -> Prompt:
        return Prompt(uid=uid, token_ids=(1, 2, 3), text="")

    return Producer(
        PromptStream(
            draw=lambda: find("{}:{}".format(*next(rows))),
            find=find,
            useful=lambda group: True,
            max_draws=None,
            num_samples=GROUP,
            sampling=SamplingConfig(max_tokens=TOKENS),
            seed=0,
        ),
        collector=Collector(
            Dispatcher(fleet, generators, signal=Signal()),
            judges=[SimulatedJudge()],
            combination=Combination(weights={"v": 1.0}),
            purpose="train",
            failures=FailureConfig(),
            budget=Budget(64, of="failures", field="failures.failures_in_a_row"),
        ),
        ledger=Ledger(),
        staleness=Staleness(StalenessConfig(max_staleness=1), batch=BATCH),
    )


async def measure(args: argparse.Namespace) -> None:
    world = World(args.generators)
    producer = build(args, world)
    world.push(1)
    producer.committed(version=1, step=0)
    process = psutil.Process()
    start_s, cpu_s, num, step = time.monotonic(), time.process_time(), 0, 0
    looks = 10
    while True:
        batch = await producer.next_batch()
        step += 1
        num += sum(len(group.episodes) for group in batch.groups)
        producer.trained(step=step)
        world.push(step + 1)
        producer.committed(version=step + 1, step=step)
        elapsed_s = time.monotonic() - start_s
        done = num / args.trajectories if args.trajectories else elapsed_s / args.seconds
        if done >= (11 - looks) / 10:
            looks -= 1
            print(f"{num:9,} trajectories, {process.memory_info().rss / 1e6:.1f} MB", flush=True)
        if done >= 1:
            break
    elapsed_s = time.monotonic() - start_s
    used = (time.process_time() - cpu_s) / elapsed_s
    print(
        f"{args.generators} generators: {num / elapsed_s:,.0f} trajectories/s, {used:.2f} cores, "
        f"{1e6 * used * elapsed_s / num:.0f} us of CPU a trajectory"
    )
    await producer.stop()


class Model:
    """Ranks and scorers that answer at once."""

    def score(self, batches, temperature=1.0, adapter=True):  # noqa: ANN001, ANN201 - as theirs
        return [np.zeros(len(batch.token_R), np.float32) for batch in batches]

    def forward_backward(self, batches, objective, temperature):  # noqa: ANN001, ANN201 - as theirs
        return Tally()


class InCalls:
    """No store: each call carries the micro-batches."""

    def parts(self, packed: Packed) -> list:
        return packed.batches


def step_batch(num_tokens: int) -> Packed:
    """Pack sequences of 1,024 tokens for two ranks, with five columns."""
    scored = np.arange(1024) >= 128
    units = [
        Unit.of(range(1024), scored=scored, number=number) for number in range(num_tokens // 1024)
    ]
    packed = pack(units, num_ranks=2, max_tokens=16384)
    column = dict.fromkeys(range(len(units)), np.zeros(int(scored.sum())))
    return packed.attach(**{f"column{number}_R": column for number in range(5)})


async def hand_out(args: argparse.Namespace) -> None:
    """Hand a step's batch to three models; print bytes and seconds."""
    size = StepSize(tokens=args.packed_tokens)
    with Session(ClusterConfig(), step_bytes=0 if args.in_calls else size.bytes) as session:
        store = InCalls() if args.in_calls else session.batches
        handles = [Handle(session.spawn(Model), name="rank", timeout_s=600) for _ in range(2)]
        ranks = Ranks(lambda: handles, settings={})
        policy, critic = (TrainedGroup(ranks, store=store) for _ in range(2))
        reference = ReferenceGroup(Copies([Stateless(lambda: handles[0])]), store=store)
        for _ in range(2):  # the first step is not measured: the actors start
            packed = step_batch(args.packed_tokens)
            start_s, cpu_s, most = time.monotonic(), time.process_time(), 0
            answers = {}
            for name, model in (("ref", reference), ("proximal", policy), ("values", critic)):
                answers[f"{name}_R"] = await model.score(packed)
                most = max(most, stored()[0])
            for model in (critic, policy):
                await model.forward_backward(packed, None)
                most = max(most, stored()[0])
            elapsed_s, used_s = time.monotonic() - start_s, time.process_time() - cpu_s
            cpu_s = time.process_time()
            packed.attach(**{name: packed.by_item(each) for name, each in answers.items()})
            attach_s = time.process_time() - cpu_s
            del packed
        print(
            f"{args.packed_tokens:,} tokens, {'in calls' if args.in_calls else 'stored once'}: "
            f"{elapsed_s:.2f} s, {used_s:.2f} s of CPU in the driver, at most {most / 1e6:,.0f} MB "
            f"in the object store, {stored()[1] / 1e6:,.0f} MB spilled in two steps; "
            f"{attach_s:.3f} s of CPU to make columns of the three answers"
        )


def stored() -> tuple[int, int]:
    """Return the bytes that the object store holds, and those that it has written to the disk."""
    import ray
    from ray._private.internal_api import node_stats

    (node,) = ray.nodes()
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats
    return stats.object_store_bytes_used, stats.spilled_bytes_total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--generators", type=int, default=256)
    parser.add_argument("--rate", type=float, default=5000.0, help="trajectories a second; 0: any")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--trajectories", type=int, default=0, help="stop after so many instead")
    parser.add_argument("--packed-tokens", type=int, default=0, help="hand out a batch instead")
    parser.add_argument("--in-calls", action="store_true", help="without the batch store")
    args = parser.parse_args()
    asyncio.run(hand_out(args) if args.packed_tokens else measure(args))


if __name__ == "__main__":
    main()
