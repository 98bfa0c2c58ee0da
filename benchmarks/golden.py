"""Tiny runs of this checkout and of another commit: the same numbers, bit for bit?

    .venv/bin/python benchmarks/golden.py --parent HEAD~1

Both sides run on this machine, one after the other, in float32 and with one thread: GRPO, PPO
with critic, reference and reward model, the same PPO run resumed before its last step (which
must also equal the run that was not interrupted), and simulated runs ahead of their weights.
Compared are all metrics but times and memory, every response, and the exported weights.
Responses are not interrupted here; tests/rollout/test_interruption.py works out their numbers.
The first difference of each kind is printed, and the exit code is 1.

A metric or option that got another name on purpose: ``--renamed OLD=NEW``; one that came or
went: ``--renamed =NEW`` or ``--renamed OLD=``. With ``--store`` nothing is compared: the
numbers of ``tests/golden.json``, which CI checks within 1e-5, are written anew.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEPS, SEEDS = 3, 40
TIMES = ("timing_s/", "time_s", "perf/")
EXACT = [
    "generator.threads=1",
    "generator.max_num_seqs=1",  # else it depends on arrival times what is computed together
    "trainer.threads=1",
    "trainer.dtype=float32",
    f"trainer.steps={STEPS}",
    "checkpoint.keep=9",
    "tracking.wandb=disabled",
    "tracking.report=false",
    "rollout.interruption={after:null,phrase:''}",
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parent", default="HEAD~1", help="commit to compare with (HEAD~1)")
    parser.add_argument("--renamed", action="append", default=[], metavar="OLD=NEW")
    parser.add_argument("--store", action="store_true", help="write tests/golden.json instead")
    parser.add_argument("--simulate", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.simulate:
        print(json.dumps(simulated()))
        return 0
    with tempfile.TemporaryDirectory(prefix="golden-") as scratch:
        place = Path(scratch)
        models = build_models(place)
        if args.store:
            store(*models)
            return 0
        new_of = dict(each.split("=", 1) for each in args.renamed)
        with checked_out(args.parent, place / "parent") as tree:
            print(f"running {args.parent}", flush=True)
            old = Side(tree, place / "old", models, {new: old for old, new in new_of.items()})
        print("running this checkout", flush=True)
        new = Side(ROOT, place / "new", models, {})
        differences = [*old.differences(new, new_of), *new.not_resumed_exactly()]
        print("\n".join(differences) or f"bit-equal: {new.summary()}")
    return 1 if differences else 0


def build_models(place: Path) -> tuple[Path, Path]:
    """Write a tiny policy and a reward model; both sides read the same files."""
    sys.path.insert(0, str(ROOT / "tests"))
    from reward_models import build_reward_model

    from rlpost.models.tiny import build_tiny_llama

    policy = build_tiny_llama(place / "policy", tied=False)
    return policy, build_reward_model(place / "reward", policy)


def store(model: Path, reward_model: Path) -> None:
    """Write what CI compares."""
    from golden_numbers import FILE, computed

    logging.disable(logging.CRITICAL)  # of what dies in simulations
    FILE.write_text(json.dumps(computed(model, reward_model), indent=1, sort_keys=True) + "\n")
    print(f"wrote {FILE.relative_to(ROOT)}")


@contextmanager
def checked_out(commit: str, place: Path) -> Iterator[Path]:
    """A worktree of ``commit`` for as long as it is needed."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(place), commit], check=True)
    try:
        yield place
    finally:
        subprocess.run([*git, "remove", "--force", str(place)], check=True)


def simulated() -> dict[str, Any]:
    """Run the simulations that the packages of this process's path describe."""
    import torch
    from golden_numbers import simulated as simulate

    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    return {f"seed {seed}": simulate(seed) for seed in range(SEEDS)}


class Side:
    """The runs of one checkout."""

    def __init__(
        self, tree: Path, place: Path, models: tuple[Path, Path], old_names: dict[str, str]
    ) -> None:
        sys.path.insert(0, str(ROOT / "tests"))
        from cli_runs import REWARD, every_role

        self._tree, self._place, self._old_names = tree, place, old_names
        policy, reward_model = models
        place.mkdir()
        (place / "reward.py").write_text(REWARD)
        roles = every_role(reward_model)
        self._run("grpo", policy)
        self._run("ppo", policy, *roles)
        self._cut("ppo", "resumed")
        self._run("resumed", policy, *roles)
        own = str(tree / "benchmarks" / "golden.py")
        self.simulated = json.loads(self._python([own, "--simulate"]))

    def _run(self, name: str, policy: Path, *overrides: str) -> None:
        from cli_runs import command

        start_s = time.monotonic()
        words = command(self._place, policy, name, *overrides, *EXACT)[1:]
        self._python([self._in_old_names(word) for word in words])
        print(f"  {name}: {time.monotonic() - start_s:.0f} s", flush=True)

    def _python(self, words: list[str]) -> str:
        path = os.pathsep.join([str(self._tree), str(self._tree / "tests")])
        env = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *words], cwd=self._place, env=env, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{' '.join(words)}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}")
        return done.stdout

    def _in_old_names(self, word: str) -> str:
        """Say an override as the other commit called it."""
        name, equals, value = word.partition("=")
        plus, name = name[: name.startswith("+")], name.removeprefix("+")
        return f"{plus}{self._old_names.get(name, name)}{equals}{value}"

    def _cut(self, name: str, copy: str) -> None:
        """Copy a run as it was before its last step."""
        whole, cut = self._place / "runs" / name, self._place / "runs" / copy
        shutil.copytree(whole, cut)
        shutil.rmtree(cut / "export")
        shutil.rmtree(cut / "checkpoints" / f"step_{STEPS:06d}")
        (cut / "checkpoints" / "latest").write_text(f"step_{STEPS - 1:06d}")

    def numbers(self, name: str) -> list[dict[str, Any]]:
        """Every step's metrics, without times and memory."""
        lines = (self._place / "runs" / name / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if _is_number(k)} for line in lines]

    def responses(self, name: str, spans: bool) -> list[tuple[Any, ...]]:
        keys = ("uid", "sample", "response", "reward", "num_tokens", *(["spans"] * spans))
        return [
            (file.stem, *(json.loads(line)[key] for key in keys))
            for file in sorted((self._place / "runs" / name / "rollouts").glob("*.jsonl"))
            for line in file.read_text().removesuffix("\n").split("\n")
        ]

    def weights(self, name: str) -> dict[str, Any]:
        from safetensors.torch import load_file

        (file,) = (self._place / "runs" / name / "export").glob("*.safetensors")
        return load_file(file)

    def differences(self, new: "Side", new_of: dict[str, str]) -> Iterator[str]:
        """Sentences about what ``new`` has otherwise."""
        for name in ("grpo", "ppo", "resumed"):
            yield from _compared(f"{name}: ", self, name, new, name, new_of)
        for seed, ours in self.simulated.items():
            theirs = new.simulated[seed]
            wrong = [what for what in ours if ours[what] != theirs[what]]
            if wrong:
                told = f"{ours[wrong[0]]} became {theirs[wrong[0]]}"
                yield f"simulated {seed}: {', '.join(wrong)} differ: {told:.600}"
                return

    def not_resumed_exactly(self) -> Iterator[str]:
        """Sentences about how a resumed run differs from the one that went on.

        It pushes once more, so numbers of versions differ.
        """
        where, absent = "resumed against uninterrupted: ", {"weights/version": ""}
        yield from _compared(where, self, "ppo", self, "resumed", absent, spans=False)

    def summary(self) -> str:
        numbers = sum(len(row) for name in ("grpo", "ppo") for row in self.numbers(name))
        return f"{numbers} metrics of {2 * STEPS} steps, weights, responses, {SEEDS} simulations"


def _is_number(name: str) -> bool:
    if name.startswith("perf/"):
        return name.endswith("_tokens")
    return not (name.startswith(TIMES) or name.endswith("_s"))


def _compared(
    where: str,
    one: Side,
    name: str,
    two: Side,
    other: str,
    new_of: dict[str, str],
    *,
    spans: bool = True,
) -> Iterator[str]:
    """Yield the first difference of responses, of metrics and of weights."""
    pairs = zip(one.responses(name, spans), two.responses(other, spans), strict=False)
    yield from (f"{where}response {a} became {b}" for a, b in _first(a_b for a_b in pairs))
    rows = one.numbers(name), two.numbers(other)
    if len(rows[0]) != len(rows[1]):
        yield f"{where}{len(rows[0])} reported steps became {len(rows[1])}"
    yield from (f"{where}{each}" for each in _first_metric(*rows, new_of))
    weights = one.weights(name), two.weights(other)
    if weights[0].keys() != weights[1].keys():
        yield f"{where}other tensors: {sorted(weights[0].keys() ^ weights[1].keys())[:5]}"
    for tensor in weights[0].keys() & weights[1].keys():
        gap = (weights[0][tensor].double() - weights[1][tensor].double()).abs().max().item()
        if gap:
            yield f"{where}{tensor} differs by up to {gap:.3g}"
            return


def _first(pairs: Iterator[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    return next(([(a, b)] for a, b in pairs if a != b), [])


def _first_metric(
    old: list[dict[str, Any]], new: list[dict[str, Any]], new_of: dict[str, str]
) -> Iterator[str]:
    added = {name for before, name in new_of.items() if not before}
    gone = {before for before, name in new_of.items() if not name}
    for before, after in zip(old, new, strict=False):
        ours = {new_of.get(name, name): value for name, value in before.items()}
        for name in sorted((ours.keys() | after.keys()) - added - gone - {""}):
            if ours.get(name) != after.get(name):
                step = before["step"]
                yield f"step {step}: {name} was {ours.get(name)!r}, is {after.get(name)!r}"
                return


if __name__ == "__main__":
    sys.exit(main())
