"""Kill random processes of a real run and check that nothing is lost.

    .venv/bin/python benchmarks/chaos.py DIR --minutes 15 --kills 30

A run on a tiny random model, with two generators, two trainer ranks, a critic's worth of
verifiers and weights that may lag by one step, is started in DIR. Ray actors, vLLM's own
processes and the driver get SIGKILL or SIGSTOP at random moments; a killed driver is started
again with the same command. Then the run is left alone until it is done.

Checked at the end: exit code 0 at the last step; every prompt admitted was consumed, dropped
or is outstanding; no prompt was consumed twice; staleness stayed within the bound.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

STALENESS, PROMPTS, GROUP = 1, 4, 4
ACTORS = {
    "generator": "ray::EngineGenerator",
    "trainer rank": "ray::TrainedRank",
    "verifier": "ray::VerifierService",
}
VICTIMS = [*ACTORS, "engine", "driver"]
REWARD = '''
def even_share(prompts, completions, completion_ids, **columns):
    """Any response earns something, so groups differ."""
    return [sum(t % 2 == 0 for t in ids) / max(1, len(ids)) for ids in completion_ids]
'''


@dataclass(frozen=True)
class Kill:
    """One signal that was sent to a process."""

    at_s: float  # Unix time
    victim: str
    signal: str


class Run:
    """The run whose processes are killed, over all its drivers.

    Args:
        place: the directory of the run and its logs.
        steps: until it ends.
        options: further hydra overrides.
        prefix: of the command that starts the driver.
    """

    def __init__(
        self, place: Path, *, steps: int, options: Sequence[str] = (), prefix: Sequence[str] = ()
    ) -> None:
        from rlpost.models.tiny import build_tiny_llama

        place.mkdir(parents=True, exist_ok=True)
        (place / "reward.py").write_text(REWARD)
        if not (place / "model").exists():
            build_tiny_llama(place / "model", tied=False)
        self.place = place
        self.root = place / "runs" / "chaos"
        self._steps, self._options, self._prefix = steps, options, prefix
        self._output = (place / "output.txt").open("a")
        self.process = self._start()

    def _start(self) -> subprocess.Popen:
        self._started_s = time.time()
        options = [
            "run.name=chaos",
            f"model.path={self.place / 'model'}",
            "verifier=function",
            f"verifier.path={self.place / 'reward.py'}:even_share",
            "rollout.max_tokens=96",
            f"rollout.prompts_per_step={PROMPTS}",
            f"rollout.group_size={GROUP}",
            f"rl.max_staleness={STALENESS}",
            "data.heldout_size=4",
            "evaluation.every=0",
            f"trainer.steps={self._steps}",
            "trainer.num_ranks=2",
            "trainer.threads=1",
            "trainer.dtype=float32",
            "generator.num=2",
            "generator.threads=1",
            "generator.setup_timeout_s=200",
            "generator.request_timeout_s=60",
            "cluster.call_timeout_s=120",
            "cluster.judge_timeout_s=20",
            "verifier.timeout_s=1",
            "weights.timeout_s=30",
            "checkpoint.every=2",
            "failures.ping_every_s=2",
            "failures.ping_timeout_s=10",
            "failures.missed_pings=2",
            "failures.attempts=8",
            "failures.trainer_restarts=100",
            "tracking.wandb=disabled",
            *self._options,
        ]
        return subprocess.Popen(
            [*self._prefix, sys.executable, "-m", "rlpost.cli.main", "rl", *options],
            cwd=self.place,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def end(self) -> None:
        """Kill whatever is left of the run."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        _gone(family)

    def victims_left(self) -> list[str]:
        """Return the processes of the run that are still alive after it ended."""
        return [
            " ".join(process.info["cmdline"])
            for process in psutil.process_iter(["cmdline", "cwd"])
            if process.info["cwd"] == str(self.place) and process.info["cmdline"]
        ]

    def is_set_up(self) -> bool:
        """Whether the driver has finished set-up; before that, any failure ends it."""
        return any("set-up took" in text and at_s > self._started_s for at_s, text in lines(self))

    def victims(self) -> dict[str, list[psutil.Process]]:
        """Return the live processes of the run by kind."""
        found: dict[str, list[psutil.Process]] = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            for kind, title in ACTORS.items():
                if _title(process).startswith(title):
                    found.setdefault(kind, []).append(process)
        for generator in found.get("generator", []):
            found.setdefault("engine", []).extend(_forked(generator))
        return found

    def hit(self, kind: str, blow: signal.Signals, rng: random.Random) -> Kill | None:
        """Hit one process of a kind, if there is one; a dead driver is replaced."""
        if kind == "driver":
            family = psutil.Process(self.process.pid).children(recursive=True)
            at_s = time.time()
            self.process.kill()
            self.process.wait()
            _gone(family)
            self.process = self._start()
            return Kill(at_s, kind, "SIGKILL")
        candidates = self.victims().get(kind)
        if not candidates:
            return None
        try:
            rng.choice(candidates).send_signal(blow)
        except psutil.NoSuchProcess:
            return None
        return Kill(time.time(), kind, blow.name)


def _title(process: psutil.Process) -> str:
    """Command line of a process; empty when it is gone or stopped."""
    try:
        stopped = process.status() == psutil.STATUS_STOPPED
        return "" if stopped else " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _forked(parent: psutil.Process) -> list[psutil.Process]:
    """Return the child processes of ``parent`` that do its work, without Python's helpers."""
    try:
        children = parent.children()
    except psutil.Error:
        return []
    titles = {child: _title(child) for child in children}
    return [child for child, title in titles.items() if title and "resource_tracker" not in title]


def _gone(family: list[psutil.Process]) -> None:
    """Wait until the processes of a dead driver have ended; stopped ones are killed."""
    _, left = psutil.wait_procs(family, timeout=20)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=20)


def attack(run: Run, *, kills: int, until_s: float, rng: random.Random) -> list[Kill]:
    """Kill processes at random moments until the time is over or the run has ended.

    ``kills`` is how many there would be if no driver had to be set up in between.
    """
    done: list[Kill] = []
    gap_s = (until_s - time.time()) / kills
    while True:
        time.sleep(rng.uniform(0.3, 1.3) * gap_s)
        while run.process.poll() is None and not run.is_set_up() and time.time() < until_s:
            time.sleep(0.5)
        if run.process.poll() is not None or time.time() >= until_s:
            return done
        blow = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
        # Some kinds may have no process at the moment, because they are being restarted.
        kills_now = (run.hit(kind, blow, rng) for kind in rng.sample(VICTIMS, len(VICTIMS)))
        kill = next(filter(None, kills_now), None)
        if kill is not None:
            done.append(kill)
            print(f"{datetime.now():%H:%M:%S} {kill.signal} {kill.victim}", flush=True)


def lines(run: Run) -> Iterator[tuple[float, str]]:
    """Time and text of the run's log."""
    log = run.root / "run.log"
    for line in log.read_text().splitlines() if log.exists() else []:
        stamp = re.match(r"(\d+-\d+-\d+ \d+:\d+:\d+),(\d+) (.*)", line)
        if stamp:
            moment = datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S").timestamp()
            yield moment + int(stamp[2]) / 1000, stamp[3]


RECOVERED = {
    "generator": "serves again",
    "engine": "serves again",
    "trainer rank": "going on from step",
    "driver": "set-up took",
}


def recovery_s(run: Run, kill: Kill) -> float | None:
    """Return the seconds from a kill to the log line that reports recovery, None without one."""
    sign = RECOVERED.get(kill.victim)
    after = [at_s for at_s, text in lines(run) if sign and sign in text and at_s > kill.at_s]
    return min(after) - kill.at_s if after else None


def recoveries(run: Run, kills: list[Kill]) -> dict[str, list[float]]:
    """All recovery times by victim."""
    times: dict[str, list[float]] = {}
    for kill in kills:
        seconds = recovery_s(run, kill)
        if seconds is not None:
            times.setdefault(kill.victim, []).append(seconds)
    return times


def saved(run: Run) -> dict:
    """The driver's state in the latest checkpoint."""
    latest = (run.root / "checkpoints" / "latest").read_text().strip()
    return json.loads((run.root / "checkpoints" / latest / "driver.json").read_text())


def check(run: Run, *, steps: int, code: int = 0) -> list[str]:
    """What was lost up to the checkpoint of ``steps``; empty when nothing was."""
    problems = []
    if run.process.returncode != code:
        problems.append(f"exit code {run.process.returncode}")
    rows = [json.loads(line) for line in (run.root / "metrics.jsonl").read_text().splitlines()]
    if [row["step"] for row in rows] != list(range(steps + 1)):
        problems.append(f"steps {[row['step'] for row in rows]}")
    staleness = "training/off_policy/trajectory_staleness/max"
    if max(row.get(staleness, 0) for row in rows) > STALENESS:
        problems.append("staleness above the bound")
    ledger = saved(run)["ledger"]
    ended = ledger["consumed"] + sum(ledger["dropped"].values())
    if ledger["admitted"] != ended + len(ledger["outstanding"]):
        problems.append(f"ledger {ledger}")
    if ledger["consumed"] != steps * PROMPTS:
        problems.append(f"{ledger['consumed']} prompts consumed in {steps} steps of {PROMPTS}")
    seen: Counter[tuple[str, int]] = Counter()
    for path in (run.root / "rollouts").glob("step_*.jsonl"):
        with path.open() as file:  # not splitlines(): a response may hold any separator
            seen.update((row["uid"], row["sample"]) for row in map(json.loads, file))
    twice = [key for key, count in seen.items() if count > 1]
    if twice:
        problems.append(f"sampled twice: {twice[:5]}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("place", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0, help="of attack")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finish-minutes", type=float, default=15.0, help="after the attack")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run = Run(args.place.absolute(), steps=args.steps)
    deadline_s = time.time() + 60 * args.finish_minutes
    while run.process.poll() is None and not run.is_set_up() and time.time() < deadline_s:
        time.sleep(1)  # until then there are no processes to kill
    until_s = time.time() + 60 * args.minutes
    kills = attack(run, kills=args.kills, until_s=until_s, rng=random.Random(args.seed))
    try:
        run.process.wait(timeout=60 * args.finish_minutes)
    except subprocess.TimeoutExpired:
        run.process.send_signal(signal.SIGABRT)
        print("the run did not finish")
        return 1
    problems = check(run, steps=args.steps)
    print(f"{len(kills)} blows: {dict(Counter(f'{k.signal} {k.victim}' for k in kills))}")
    for victim, times in recoveries(run, kills).items():
        median = sorted(times)[len(times) // 2]
        print(f"{victim}: works again after {median:.1f} s (median of {len(times)})")
    print("nothing was lost" if not problems else f"LOST: {problems}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
