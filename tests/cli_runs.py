"""`rlpost rl` in a process of its own, on the tiny model, and what it left behind."""

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

from forks import Forked

Process = Forked | subprocess.Popen
STEPS = 4
REWARD = '''
def even_share(prompts, completions, completion_ids, **columns):
    """Any response earns something, so groups differ."""
    return [sum(t % 2 == 0 for t in ids) / len(ids) for ids in completion_ids]
'''


def command(place: Path, model: Path, name: str, *overrides: str, stage: str = "rl") -> list[str]:
    return [
        sys.executable,
        "-m",
        "rlpost.cli.main",
        stage,
        f"run.name={name}",
        f"model.path={model}",
        "verifier=function",
        f"verifier.path={place / 'reward.py'}:even_share",
        "rollout.max_tokens=8",
        "rollout.prompts_per_step=3",
        "rollout.group_size=4",
        f"trainer.steps={STEPS}",
        "trainer.lr=1e-3",
        "trainer.dtype=float32",
        "trainer.threads=1",
        "generator.threads=1",
        "data.heldout_size=4",
        "evaluation.every=2",
        "checkpoint.every=1",
        "tracking.wandb=offline",
        *overrides,
    ]


def every_role(reward_model: Path) -> list[str]:
    """Overrides of a PPO run that has every role and many options."""
    return [
        "algorithm=ppo",
        "algorithm.mini_batches=2",
        "algorithm.epochs=2",
        "algorithm.anchor=proximal",
        "algorithm/corrections=[tis,veto]",
        "algorithm.kl.coefficient=0.05",
        "algorithm.kl.placement=reward",
        "algorithm.kl.form=k1",
        "algorithm.kl.adaptive.enabled=true",
        "algorithm.kl.adaptive.horizon=12",
        "algorithm.dynamic_sampling.enabled=true",
        "algorithm.shaping.overlong_buffer=4",
        "rollout.interruption.after=3",
        "rollout.interruption.phrase=' so'",
        "critic.enabled=true",
        "critic.lr=1e-3",
        "critic.warmup_only_steps=1",
        "verifier.weight=0.5",
        f"+reward_models.taste.path={reward_model}",
        "+reward_models.taste.normalize=true",
        "+reward_models.taste.threads=1",
    ]


def start(place: Path, *args, umask: int = -1, **kwargs) -> Forked:
    """Start ``command(place, ..)`` with everything imported."""
    words = command(place, *args, **kwargs)
    return fork(words, place=place, umask=umask)


def fork(words: list[str], *, place: Path, umask: int = -1) -> Forked:
    """Start ``words`` of a command below ``place``; Python, their first, is there already."""
    number = len(list(place.glob("output-*")))
    return Forked(words[1:], output=place / f"output-{number}", place=place, umask=umask)


def typed(place: Path, *args, **kwargs) -> subprocess.Popen:
    """Start ``command(place, ..)`` as a user does, in a process of its own."""
    return subprocess.Popen(
        command(place, *args, **kwargs),
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def other_modes(root: Path, *, umask: int) -> dict[str, str]:
    """Files and directories below ``root`` whose permissions are not those of ``umask``."""
    found = {}
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode != (0o777 if path.is_dir() else 0o666) & ~umask:
                found[str(path.relative_to(root))] = oct(mode)
    return found


def finish(process: Process, timeout_s: float = 400) -> str:
    output, _ = process.communicate(timeout=timeout_s)
    return output


def wait_for_step(run: Path, step: int, process: Process, *, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        if any(row["step"] >= step for row in metrics(run)):
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} never came: {process.communicate()[0]}")


def metrics(run: Path) -> list[dict]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def responses(run: Path) -> list[dict]:
    """Every row of ``rollouts/``, and the file it lies in."""
    return [
        {"file": file.stem, **json.loads(line)}
        for file in sorted((run / "rollouts").glob("step_*.jsonl"))
        for line in file.read_text().removesuffix("\n").split("\n")
    ]


def samples(run: Path) -> list[tuple]:
    keys = ("file", "uid", "sample", "response")
    return [tuple(row[key] for key in keys) for row in responses(run)]
