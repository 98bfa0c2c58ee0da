"""The quickstart with several seeds: held-out accuracy before and after, and minutes.

    .venv/bin/python benchmarks/quickstart.py --seeds 0 1 2

Runs are resumed if they exist, so an interrupted benchmark goes on. Ends with 1 if a seed ends
below ``--at-least``.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dir", type=Path, default=Path("runs"))
    parser.add_argument("--at-least", type=float, default=0.0, help="held-out accuracy")
    parser.add_argument("--overrides", nargs="*", default=[], help="hydra overrides of every run")
    args = parser.parse_args()
    lowest = 1.0
    for seed in args.seeds:
        name = f"quickstart-seed{seed}"
        command = [sys.executable, "-m", "rlpost.cli.main", "rl", "experiment=quickstart"]
        subprocess.run(
            [*command, f"seed={seed}", f"run.name={name}", f"run.dir={args.dir}", *args.overrides],
            check=True,
        )
        lines = (args.dir / name / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        (key,) = {k for row in rows for k in row if "/acc/mean@" in k}
        scores = [row[key] for row in rows if key in row]
        lowest = min(lowest, scores[-1])
        pushes = [row for row in rows if "weights/push_s" in row]
        print(
            f"seed {seed}: held-out accuracy {scores[0]:.3f} -> {scores[-1]:.3f} in "
            f"{rows[-1]['time_s'] / 60:.1f} min; largest probe difference "
            f"{max(r['weights/probe_logprob_diff_max'] for r in pushes):.1e}, largest ratio "
            f"deviation {max(r.get('actor/ratio/max_deviation', 0) for r in rows):.1e}, driver "
            f"{max(r.get('perf/driver_overhead', 0) for r in rows):.2%} of a step"
        )
    return int(lowest < args.at_least)


if __name__ == "__main__":
    sys.exit(main())
