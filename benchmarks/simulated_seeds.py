"""More seeds of the simulation than `make test` has time for; a failing one says how to replay it.

    python benchmarks/simulated_seeds.py --seeds 20000

Owns the number of seeds. Refuses to own what is simulated and judged (tests/simulation).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the tests of the simulation with so many seeds; returns their exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20_000, help="how many, from 0 on")
    parser.add_argument("--workers", type=int, default=2, help="processes that share them")
    args = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-q", "tests/simulation", "-n", str(args.workers)]
    environment = os.environ | {"RLPOST_SIMULATED_SEEDS": str(args.seeds)}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
