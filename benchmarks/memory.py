"""Peak memory of each process of a real run beside what `rlpost plan` says.

    .venv/bin/python benchmarks/memory.py experiment=quickstart trainer.steps=2 evaluation.samples=1

Peaks are the kernel's (VmHWM): resident memory, mapped weights included. The last column is
the least that was resident afterwards, which `cluster.offload_idle=true` lowers.
"""

import argparse
import collections
import subprocess
import sys
import tempfile
import time

import psutil

from rlpost.cli.plan import prepared
from rlpost.stages.estimate import GIB
from rlpost.stages.rl.estimate import estimate

# Name of a process in the system -> in the plan, without its number.
KINDS = {
    "ray::TrainedRank": "trained ranks",  # of policy and critic
    "ray::FrozenScorer": "reference",
    "ray::DividedRank": "reference",
    "ray::RewardScorer": "reward model",
    "ray::DividedRewardRank": "reward model",
    "ray::EngineGenerator": "generator: actor",
    "VLLM::EngineCore": "generator: core",
    "VLLM::Worker": "generator: worker",
    "ray::VerifierService": "verifiers",
}


def kind_of(process: psutil.Process, driver: int) -> str | None:
    if process.pid == driver:
        return "driver"
    title = " ".join(process.cmdline()[:1]) or process.name()
    return next((kind for start, kind in KINDS.items() if title.startswith(start)), None)


def peak_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def watch(command: list[str]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Run ``command``; returns kind -> peaks of its processes, and what they fell to later."""
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks: dict[tuple[str, int], int] = {}
    seen: dict[tuple[str, int], list[int]] = collections.defaultdict(list)
    services: set[int] = set()
    while run.poll() is None:
        for process in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
            try:
                kind = kind_of(process, run.pid)
                if process.ppid() in services:  # a guard of a worker, or a worker
                    kind = "verifiers"
                services |= {process.pid} if kind == "verifiers" else set()
                if kind is not None:
                    peaks[kind, process.pid] = peak_bytes(process.pid)
                    seen[kind, process.pid].append(process.memory_info().rss)
            except (psutil.Error, OSError, ValueError):  # the process ended in the meantime
                continue
        time.sleep(0.3)
    if run.returncode:
        raise SystemExit(f"the run ended with exit code {run.returncode}")
    return _by_kind(peaks), _by_kind({key: _least_later(sizes) for key, sizes in seen.items()})


def _least_later(sizes: list[int]) -> int:
    """Return the smallest size of a process after it was nearly at its peak."""
    first = next(i for i, size in enumerate(sizes) if size >= 0.7 * max(sizes))
    return min(sizes[first:])


def _by_kind(sizes: dict[tuple[str, int], int]) -> dict[str, list[int]]:
    by_kind = collections.defaultdict(list)
    for (kind, _), size in sizes.items():
        by_kind[kind].append(size)
    return by_kind


def predicted(overrides: list[str]) -> dict[str, list[float]]:
    found = estimate(prepared("rl", overrides), gpu_bytes=None)
    by_kind = collections.defaultdict(list)
    for each in [*found.footprints, *found.unplaced]:
        words = [word.rstrip(":") for word in each.process.split()]
        name = " ".join(word for word in words if not word.isdigit())
        kind = name.replace("generator ", "generator: ") if "generator" in name else name
        kind = "reward model" if kind.startswith("reward model") else kind
        kind = "trained ranks" if kind in ("trainer rank", "critic rank") else kind
        by_kind[kind].append(each.peak_bytes)
    return by_kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="+", help="as for `rlpost rl`")
    args = parser.parse_args()
    plan = predicted(args.overrides)
    with tempfile.TemporaryDirectory() as scratch:
        place = [f"run.dir={scratch}", "tracking.wandb=disabled"]
        seen, least = watch(
            [sys.executable, "-m", "rlpost.cli.main", "rl", *args.overrides, *place]
        )
    print(f"{'process':20} {'planned':>8} {'seen':>8}  ratio   least afterwards (GiB)")
    for kind, sizes in plan.items():
        ours, theirs = sum(sizes) / GIB, sum(seen.get(kind, [])) / GIB
        ratio, low = ours / theirs if theirs else 0, sum(least.get(kind, [])) / GIB
        print(f"{kind:20} {ours:8.2f} {theirs:8.2f}  {ratio:5.2f}  {low:8.2f}")
    total, real = (sum(map(sum, each.values())) / GIB for each in (plan, seen))
    print(f"{'all':20} {total:8.2f} {real:8.2f}  {total / real:5.2f}")


if __name__ == "__main__":
    main()
