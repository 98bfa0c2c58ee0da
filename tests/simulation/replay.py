"""Replay one seed with everything that happened: ``python tests/simulation/replay.py 17``.

With ``--through 2000`` run the seeds from one to the other, and count faults and ends.
"""

import argparse
import logging
import os
import sys
import time
from collections import Counter
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
    parser.add_argument("--through", type=int, help="last seed of a survey")
    parser.add_argument("--log", action="store_true", help="the controller's own log too")
    options = parser.parse_args()
    if options.log:
        logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    else:
        logging.disable(logging.CRITICAL)
    if options.through is not None:
        return survey(range(options.seed, options.through + 1))
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


def survey(seeds: range) -> int:
    """Print what was injected, how runs ended, and what a seed costs."""
    from simulation.scenario import scenario_of
    from simulation.world import simulate

    injected, ends, bad, longest_s = Counter(), Counter(), [], 0.0
    start_s = time.process_time()
    for seed in seeds:
        result = simulate(scenario_of(seed))
        injected.update(result.injected)
        ends[result.outcome.partition(":")[0]] += 1
        longest_s = max(longest_s, result.gap_s)
        if not result.good:
            bad.append(seed)
            print(f"seed {seed}: {result.violation}")
    spent_s = time.process_time() - start_s
    for kind, count in sorted(injected.items()):
        print(f"{count:6d} {kind}")
    print(f"{injected.total()} faults in {len(seeds)} seeds; ends: {dict(ends)}; bad: {bad}")
    print(f"{1000 * spent_s / len(seeds):.0f} ms of CPU a seed; longest step {longest_s:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
