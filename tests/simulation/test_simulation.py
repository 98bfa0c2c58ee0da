"""The real controller, whole, in virtual time, under seeded faults.

A failing seed says how to replay it with everything that happened. More seeds:
benchmarks/simulated_seeds.py.
"""

import asyncio
import logging
import os
from dataclasses import replace

import pytest
import torch
from simulation.controls import CONTROLS
from simulation.scenario import Fault, Scenario, doomed, online_of, scenario_of
from simulation.virtual_time import Deadlock, TooLong, VirtualLoop
from simulation.world import Result, simulate

from rlpost.algorithms.preference.pairing import ChosenPair
from rlpost.stages.preference.online import pairs

SEEDS = int(os.environ.get("RLPOST_SIMULATED_SEEDS", "500"))
CHUNK = 50  # seeds of one test

# Where a search begins: seeds that showed it before.
SEEN = {
    "sweep": 3,
    "incarnation": 1024,
    "turns": 34,
    "version boundary": 0,
    "eviction": 86,
    "earliest deadline": 13,
}

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what died with a driver


@pytest.fixture(autouse=True)
def quiet():
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def chunks(num: int) -> list[range]:
    return [range(first, min(first + CHUNK, num)) for first in range(0, num, CHUNK)]


def replay(seed: int, option: str = "") -> str:
    return f"python tests/simulation/replay.py {seed} {option}".strip()


@pytest.mark.parametrize("seeds", chunks(SEEDS), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_every_invariant_holds_under_faults(seeds):
    failures = []
    for seed in seeds:
        result = simulate(scenario_of(seed))
        if result.violation is None:
            result.violation = not_recovered_exactly(result)
        if result.violation is not None:
            failures.append(f"seed {seed}: {result.violation}\n  {replay(seed)}")
    assert not failures, "\n".join(failures)


def test_pairs_of_own_samples_keep_every_invariant_under_faults():
    failures = []
    for seed in range(60):
        result = simulate(online_of(seed))
        if result.violation is None:
            result.violation = not_recovered_exactly(result)
        if result.violation is not None:
            failures.append(f"seed {seed}: {result.violation}")
    assert not failures, "\n".join(failures)


def test_a_pair_the_wrong_way_round_is_noticed(monkeypatch):
    found = pairs.best_and_worst

    def swapped(*args, **options):
        pair = found(*args, **options)
        return pair and ChosenPair(chosen=pair.rejected, rejected=pair.chosen)

    monkeypatch.setattr(pairs, "best_and_worst", swapped)
    assert simulate(online_of(0)).violation is not None


def not_recovered_exactly(result: Result) -> str | None:
    """On-policy, whatever failed on the way is invisible in the result."""
    scenario = result.scenario
    if not scenario.synchronous or result.outcome != "done" or result.dropped:
        return None
    calm = simulate(scenario.without_faults())
    if calm.trained_on != result.trained_on:
        return f"trained on {result.trained_on}, without faults on {calm.trained_on}"
    if calm.weights != result.weights:
        return f"ends at {result.weights}, without faults at {calm.weights}"
    return None


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_what_cannot_end_well_ends_with_a_reason(first):
    failures = []
    for seed in range(first, first + 20):
        result = simulate(doomed(seed))
        if result.violation is not None:
            failures.append(f"seed {seed}: {result.violation}\n  {replay(seed, '--doomed')}")
    assert not failures, "\n".join(failures)


def test_a_seed_is_the_same_run_every_time():
    for seed in (3, 11, 37, 52, 94):
        first, second = (simulate(scenario_of(seed), trace=True) for _ in range(2))
        assert first.events == second.events and first.turns == second.turns, replay(seed)
        assert first.weights == second.weights


@pytest.mark.parametrize("mechanism", CONTROLS)
def test_a_missing_mechanism_is_noticed(mechanism):
    seen = SEEN.get(mechanism, 0)
    for seed in (seen, *range(400)):
        with CONTROLS[mechanism]():
            noticed = not simulate(scenario_of(seed)).good
        if noticed:
            assert simulate(scenario_of(seed)).good, replay(seed)
            return
    pytest.fail(f"400 seeds pass without: {mechanism}")


SMALL = Scenario(seed=1, steps=4, batch=2, group_size=2, generators=1, max_staleness=1)
FOUND = {  # what the simulation found, as small as it gets
    "a catch-up that waits for a push kept its generator from being restarted": replace(
        SMALL,
        faults=(
            Fault(kind="lost_call", target="generator 0", verb="logprobs", nth=2),
            Fault(kind="crash_before", target="generator 0", verb="begin_push", nth=3),
        ),
    ),
    "the trainer died while a new driver resumed": replace(
        SMALL,
        faults=(
            Fault(kind="crash", target="driver", verb="commit ends"),
            Fault(kind="crash_before", target="trainer", verb="load"),
        ),
    ),
    "one group could not write, and the other was never asked to finish": replace(
        SMALL, critic=True, faults=(Fault(kind="full", target="disk", verb="write", nth=3),)
    ),
    "every generator waited for weights that had died with the trainer": replace(
        SMALL,
        max_staleness=0,
        repeatable=False,
        faults=(
            Fault(kind="crash_later", target="trainer", verb="release"),
            Fault(kind="crash_before", target="generator 0", verb="generate", nth=4),
        ),
    ),
    "a dead receiver of a joint transfer cost the trainer": replace(
        SMALL,
        generators=2,
        repeatable=False,
        reset_seen=False,
        faults=(Fault(kind="crash_before", target="generator 1", verb="receive", nth=2),),
    ),
    "stopping left requests in the engines": replace(SMALL, max_staleness=3, permits=9),
}


@pytest.mark.parametrize("finding", FOUND)
def test_what_was_found_stays_mended(finding):
    result = simulate(FOUND[finding])
    assert result.good and result.outcome == "done", result.violation


# -- the loop itself ------------------------------------------------------------------------


def test_time_jumps_from_timer_to_timer():
    async def main():
        await asyncio.gather(asyncio.sleep(3600), asyncio.to_thread(lambda: None))
        return asyncio.get_running_loop().time()

    loop = VirtualLoop()
    assert loop.run_until_complete(main()) == 3600  # or the limit of a test would end it
    loop.close()


def test_a_deadlock_names_who_waits():
    async def main():
        await asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="the culprit")

    loop = VirtualLoop()
    with pytest.raises(Deadlock, match="the culprit"):
        loop.run_until_complete(main())
    loop.cancel_all()
    loop.close()


def test_time_and_turns_are_bounded():
    async def main():
        while True:
            await asyncio.sleep(1)

    for bound in ({"max_s": 50.0}, {"max_iterations": 50}):
        loop = VirtualLoop(**bound)
        with pytest.raises(TooLong):
            loop.run_until_complete(main())
        loop.cancel_all()
        loop.close()
