"""The engine on a GPU: `gpu_check.py`'s run of `rlpost rl` with a random model, to its end."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator

import torch
from gpu_section import Finding, Models

STEPS = 3


def quickstart(models: Models) -> Iterator[Finding]:
    """Boot, push, probe, sample and train on one device, in float32 and in bfloat16."""
    cluster = "local_gpu" if torch.cuda.is_available() else "local_cpu"
    for dtype, bound in (("float32", 1e-3), ("bfloat16", 0.1)):
        if dtype == "bfloat16" and models.tiny:
            return
        place = models.scratch / f"quickstart_{dtype}"
        shutil.rmtree(place, ignore_errors=True)
        command = [
            *(sys.executable, "-m", "rlpost.cli.main", "rl", "experiment=quickstart"),
            *(f"cluster={cluster}", f"model.path={models.small}", f"run.dir={place}"),
            *(f"trainer.steps={STEPS}", f"trainer.dtype={dtype}", "evaluation.every=0"),
            *("generator.max_model_len=256", "tracking.wandb=disabled"),
        ]
        subprocess.run(command, check=True)
        lines = (place / "quickstart/metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        pushes = [row for row in rows if "weights/push_s" in row]
        yield Finding(check=f"{dtype}: pushes", value=len(pushes), least=STEPS)
        worst = max(row["weights/probe_logprob_diff_mean"] for row in pushes)
        yield Finding(check=f"{dtype}: mean difference of a probe, nats", value=worst, bound=bound)
        for name in ("weights/push_s", "time/step_s"):
            values = sorted(row[name] for row in rows if name in row)
            if values:
                yield Finding(check=f"{dtype}: {name}", value=values[len(values) // 2], unit=" s")
