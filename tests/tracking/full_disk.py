"""A run's tracking in a process of its own, on file systems that are (nearly) full.

``full_disk.py RUN_DIR SIZE_KIB WHERE...``: mounts a tmpfs of that size on each place, records 30
steps with samples, prints the last step recorded, ends with 0. Needs a mount namespace:
``unshare --map-root-user --mount``.
"""

import logging
import subprocess
import sys
import time
from pathlib import Path

from rlpost.cli.exit_code import exit_code
from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode
from rlpost.tracking.files.jsonl import read_metrics
from rlpost.tracking.open import open_trackers
from rlpost.tracking.sample import SampleRecord
from rlpost.tracking.tracker import RunStatus


def main(run_dir, size_kib, *places):
    for place in places:
        Path(place).mkdir(parents=True, exist_ok=True)
        options = f"size={size_kib}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    trackers = open_trackers(
        Path(run_dir),
        cfg=TrackingConfig(
            wandb=WandbMode.offline, tensorboard=True, console=ConsoleMode.quiet, sample_rows=4
        ),
        run_name="full",
        num_steps=30,
        config={"trainer": {"steps": 30}},
    )
    try:
        _record(trackers)
    finally:
        # The file system ends with this process.
        rows = read_metrics(Path(run_dir) / "metrics.jsonl")
        sys.stdout.write(f"{len(rows)} whole rows\n")
    return 0


def _record(trackers):
    text = "word " * 400
    for step in range(1, 31):
        now_s = time.monotonic()
        trackers.span("trainer", f"train {step}", start_s=now_s, end_s=now_s, note=text)
        trackers.log(step, {f"some/metric/{index}": step / 7 for index in range(60)})
        trackers.log_samples(step, [_sample(text)])
        sys.stdout.write(f"recorded {step}\n")
    trackers.close(RunStatus.done)


def _sample(text):
    return SampleRecord(
        uid="0:1",
        sample=0,
        prompt=text,
        response=text,
        reward=1.0,
        verdicts=(),
        finish_reason="stop",
        num_tokens=9,
        spans=(),
    )


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(*sys.argv[1:])))
