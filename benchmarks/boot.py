"""Seconds from the command to the first sampled token, with the processor's share of each process.

The parts of `rlpost rl` without the loop: real trainer, real engine, real bus. To compare two
versions, run it in each checkout in turn.

    .venv/bin/python benchmarks/boot.py [hydra overrides]
"""

import asyncio
import collections
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import psutil
from push import prepared

from rlpost.cluster.session import Session
from rlpost.stages.rl.boot import boot
from rlpost.stages.rl.plan import RLPlan
from rlpost.stages.run import Run
from rlpost.types import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What has been spent when something is done; seconds since this process began."""

    done: str
    at_s: float
    cpu_s: dict[str, float]  # of the processes that live, by title

    @classmethod
    def now(cls, done: str) -> "Moment":
        own = psutil.Process()
        cpu_s: dict[str, float] = collections.Counter()
        for process in [own, *own.children(recursive=True)]:
            try:
                spent = process.cpu_times()
                title = "driver" if process == own else _title(process)
                cpu_s[title] += spent.user + spent.system
            except psutil.Error:  # it ended in the meantime
                continue
        return cls(done=done, at_s=time.time() - own.create_time(), cpu_s=cpu_s)


def _title(process: psutil.Process) -> str:
    words = process.cmdline()[:1] or [process.name()]
    title = Path(words[0].split()[0]).name
    return title if title.startswith(("ray::", "VLLM::")) else "Ray's daemons and the rest"


async def moments(plan: RLPlan, run: Run) -> AsyncIterator[Moment]:
    yield Moment.now("imports, configuration, data")
    with Session(plan.cfg.cluster) as run.session:
        yield Moment.now("Ray")
        async with aclosing(run), boot(plan, run) as job:
            yield Moment.now("trainer and generator")
            await job.parts.sampling.bus.publish()
            yield Moment.now("first push")
            await job.parts.sampling.collector.collect(
                [plan.sampling.train_set.prompt(0, 0)],
                num_samples=1,
                sampling=SamplingConfig(max_tokens=1),
                seed=0,
            )
            yield Moment.now("first token")


async def measure(overrides: list[str], root: Path) -> list[Moment]:
    return [moment async for moment in moments(*prepared(overrides, root))]


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        found = asyncio.run(measure(sys.argv[1:], Path(root) / "boot"))
    for moment in found:
        print(f"{moment.at_s:6.1f} s, {sum(moment.cpu_s.values()):6.1f} CPU s: {moment.done}")
    for title, spent in sorted(found[-1].cpu_s.items(), key=lambda item: -item[1]):
        print(f"{spent:17.1f} CPU s: {title}")


if __name__ == "__main__":
    main()
