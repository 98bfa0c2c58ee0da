"""Run directories made by the real writers, with numbers that look like a run."""

import math
from pathlib import Path

from rlpost.tracking.files.jsonl import MetricsWriter
from rlpost.tracking.files.rollouts import RolloutWriter
from rlpost.tracking.files.timeline import TimelineWriter
from rlpost.tracking.sample import SampleRecord
from rlpost.tracking.tracker import RunStatus

CONFIG = "run:\n  name: demo\ntrainer:\n  steps: 14\n  lr: 2.0e-05\n"
LOG = (
    "2026-01-02 03:04:05,678 INFO rlpost.stages.loop: step 1\n"
    "2026-01-02 03:04:06,001 WARNING rlpost.tracking.files: actor/grad_norm was nan at step 3\n"
    "2026-01-02 03:05:06,001 WARNING rlpost.verifiers.golds: timeout of <b>one</b> sample\n"
    "2026-01-02 03:06:06,001 WARNING rlpost.verifiers.golds: timeout of <b>one</b> sample\n"
)
EVIL = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
)


def sample(uid="0:1", index=0, **changes):
    fields = {
        "uid": uid,
        "sample": index,
        "prompt": "What is 7 * 8?",
        "response": "7 * 8 = 56",
        "reward": 1.0,
        "verdicts": (
            {"verifier": "math", "reward": 1.0, "error": None, "latency_s": 0.01, "info": {}},
        ),
        "finish_reason": "stop",
        "num_tokens": 9,
        "spans": ({"start": 0, "end": 9, "version": 3},),
    }
    return SampleRecord(**{**fields, **changes})


def two_verdicts():
    """A reward of two parts, one with hostile information."""
    correct = {"verifier": "correct", "reward": 0.0, "error": None, "latency_s": 0.01, "info": {}}
    info = {EVIL: EVIL, "half": "\ud800", "words": 7, "long": "x" * 9000}
    return (correct, {**correct, "verifier": "short", "reward": 0.5, "info": info})


def step_metrics(step):
    reward = 0.15 + 0.5 * step / 14 + 0.03 * math.sin(3 * step)
    return {
        "critic/score/mean": reward,
        "response_length/mean": 12 + 2 * math.cos(step),
        "response_length/min": 6,
        "response_length/max": 24,
        "response_length/clip_ratio": 0.05 / step,
        "actor/entropy": 1.2 - 0.05 * step,
        "actor/grad_norm": 1.5 + 0.4 * math.sin(step),
        "actor/pg_loss": -0.02 * math.cos(step),
        "actor/pg_clipfrac": 0.01 + 0.004 * math.sin(step),
        "rollout_corr/kl": 0.001 + 0.0002 * math.sin(step),
        "actor/ppo_kl": 0.002,
        "group/all_pass_frac": 0.04 * step,
        "group/all_fail_frac": 0.5 - 0.03 * step,
        "timing_s/gen": 11.0 + math.sin(step),
        "timing_s/reward": 0.6,
        "timing_s/update_actor": 14.0,
        "timing_s/update_weights": 0.9,
        "timing_s/step": 27.0,
        "perf/throughput": 231.0 + 8 * math.sin(step),
        "weights/version": step,
        "weights/push_s": 0.8 + 0.1 * math.sin(step),
        "weights/probe_logprob_diff_mean": 4e-6 * (1 + step / 7),
        "verifier/math/error_rate": 0.0,
    }


def step_samples(step, *, count=16):
    return [
        sample(
            uid=f"0:{step * 4 + index // 4}",
            index=index % 4,
            prompt=f"What is {2 + index} * {step}?",
            response=f"{2 + index} * {step} = {(2 + index) * step if index < step else 7}",
            reward=1.0 if index < step else 0.0,
            finish_reason="length" if index == 15 else "stop",
        )
        for index in range(count)
    ]


def write_trace(path: Path, *, steps=14) -> Path:
    """Write the trace of ``steps`` steps of 30 s: generators never rest, the trainer half."""
    now = [0.0]
    timeline = TimelineWriter(path, clock=lambda: now[0])
    for step in range(1, steps + 1):
        start = now[0]
        for lane, name, begun_s, took_s in (
            ("driver", "wait for batch", 0.0, 14.0),
            ("trainer", "wait", 0.0, 14.0),
            ("trainer", "train", 14.0, 15.0),
            ("bus", f"push v{step}", 29.0, 0.5),
        ):
            end_s = start + begun_s + took_s
            timeline.span(lane, name, start_s=start + begun_s, end_s=end_s, step=step)
        for generator in (0, 1, 10):
            for index in range(10):
                uid, end_s = f"0:{step * 10 + index}", start + 3.0 * (index + 1)
                # Two at a time; the first of a step was begun in the step before.
                timeline.span(
                    f"generator {generator}", uid, start_s=max(0.0, end_s - 5.0), end_s=end_s
                )
        now[0] += 30.0
        timeline.log(step, {})
    timeline.close(RunStatus.done)
    return path


def build_run_dir(root: Path, *, steps=14, name="demo") -> Path:
    """Write a finished run of ``steps`` steps; step 2 holds a hostile response."""
    run_dir = root / name
    now = [0.0]
    metrics = MetricsWriter(run_dir / "metrics.jsonl", clock=lambda: now[0])
    rollouts = RolloutWriter(run_dir / "rollouts")
    metrics.log(0, {"val-core/arithmetic/acc/mean@2": 0.205})
    for step in range(1, steps + 1):
        now[0] += 30.0
        row = step_metrics(step)
        row |= {"verifier/correct/mean": 0.04 * step, "verifier/short/mean": 1 - 0.02 * step}
        if step % 7 == 0:
            row["val-core/arithmetic/acc/mean@2"] = 0.205 + 0.031 * step
        metrics.log(step, row)
        extra = []
        if step == 2:
            unjudged = {"verifier": "math", "reward": None, "error": "timeout"}
            extra = [
                sample(uid="evil", response=EVIL, reward=0.25, verdicts=two_verdicts()),
                sample(uid="late", reward=None, verdicts=(unjudged,)),
            ]
        rollouts.log_samples(step, step_samples(step) + extra)
    metrics.close(RunStatus.done)
    (run_dir / "config.yaml").write_text(CONFIG)
    (run_dir / "run.log").write_text(LOG)
    return run_dir
