"""Replay one seed with everything that happened: ``python tests/simulation/replay.py 17``."""

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> int:
    from simulation.controls import CONTROLS
    from simulation.scenario import doomed, scenario_of
    from simulation.world import simulate

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--doomed", action="store_true", help="the run that cannot end well")
    parser.add_argument("--no-faults", action="store_true", help="the same run without faults")
    parser.add_argument("--without", choices=sorted(CONTROLS), help="remove a mechanism first")
    parser.add_argument("--log", action="store_true", help="the controller's own log too")
    options = parser.parse_args()
    if options.log:
        logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    scenario = (doomed if options.doomed else scenario_of)(options.seed)
    if options.no_faults:
        scenario = scenario.without_faults()
    print(scenario)
    if options.without:
        with CONTROLS[options.without]():
            result = simulate(scenario, trace=True)
    else:
        result = simulate(scenario, trace=True)
    print("\n".join(result.events))
    print(f"{result.outcome}; {result.lives} drivers, {result.seconds:.1f} s, {result.turns} turns")
    print(f"violation: {result.violation}")
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
