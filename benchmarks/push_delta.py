"""What of a model is the same in the next push of a real run: would less have to be sent?

Runs `rlpost rl` with `weights.transport=filesystem`, keeps every payload that it writes, and
compares each with the one before: which tensors, buckets and values are the same to the last bit,
as they were sent, and rounded to bfloat16 as a run in bfloat16 sends them.

    .venv/bin/python benchmarks/push_delta.py DIR --steps 5 experiment=quickstart trainer.lr=1e-6
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file

from rlpost.weights.buckets import divide
from rlpost.weights.manifest import bytes_of, describe
from rlpost.weights.transports.stream_sender import BUCKET_BYTES

Payload = dict[str, torch.Tensor]


def run(place: Path, *, steps: int, options: list[str]) -> list[Path]:
    """Run to the end; returns the payloads in order."""
    kept = place / "kept"
    kept.mkdir(parents=True)
    options = [*options, f"run.dir={place}", "run.name=delta", f"trainer.steps={steps}"]
    options += ["weights.transport=filesystem", "evaluation.every=0", "tracking.wandb=disabled"]
    command = [sys.executable, "-m", "rlpost.cli.main", "rl", *options]
    with subprocess.Popen(command) as driver:
        while driver.poll() is None:
            keep(place / "delta" / ".weights", kept)
            time.sleep(0.1)
    if driver.returncode:
        raise SystemExit(driver.returncode)
    return sorted(kept.iterdir(), key=lambda path: int(path.stem))


def keep(written: Path, kept: Path) -> None:
    """Give every payload that is complete a second name, which outlives its release."""
    for commit in written.glob("v*/COMMIT"):
        with suppress(FileExistsError, FileNotFoundError):  # it was kept; it was released
            version = commit.parent.name.removeprefix("v")
            os.link(commit.parent / "model.safetensors", kept / f"{version}.safetensors")


def compared(before: Payload, after: Payload) -> dict[str, float]:
    """Return which fraction is unchanged: of tensors, of their bytes, of buckets and of values."""
    shapes = [(name, each.dtype, tuple(each.shape)) for name, each in after.items()]
    manifest = describe(shapes, version=1)
    buckets = divide(manifest, most_bytes=BUCKET_BYTES)
    same = {name: torch.equal(bytes_of(before[name]), bytes_of(after[name])) for name in after}
    num_same = sum(int((before[name] == after[name]).sum()) for name in after)
    kept_bytes = sum(e.size_bytes for e in manifest.entries if same[e.name])
    kept_buckets = sum(all(same[e.name] for e in bucket.entries) for bucket in buckets)
    return {
        "tensors": sum(same.values()) / len(same),
        "their bytes": kept_bytes / manifest.size_bytes,
        "buckets": kept_buckets / len(buckets),
        "values": num_same / sum(each.numel() for each in after.values()),
    }


def findings(payloads: list[Path]) -> Iterator[str]:
    """Compare each payload with the one before."""
    before: Payload | None = None
    for path in payloads:
        after = load_file(path)
        if before is not None:
            for kind in (torch.float32, torch.bfloat16):
                found = compared(rounded(before, kind), rounded(after, kind))
                parts = ", ".join(f"{name} {share:.2%}" for name, share in found.items())
                yield f"push {path.stem}, {str(kind).removeprefix('torch.')}: unchanged {parts}"
        before = after


def rounded(payload: Payload, kind: torch.dtype) -> Payload:
    return {name: tensor.to(kind) for name, tensor in payload.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("place", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("options", nargs="*", help="hydra overrides of the run")
    args = parser.parse_intermixed_args()
    payloads = run(args.place.absolute(), steps=args.steps, options=args.options)
    for line in findings(payloads):
        print(line, flush=True)


if __name__ == "__main__":
    main()
