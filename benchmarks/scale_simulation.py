"""1,024 generators in virtual time: what the driver costs, and what failures leave of the time.

    .venv/bin/python benchmarks/scale_simulation.py
    .venv/bin/python benchmarks/scale_simulation.py --generators 256 --steps 4

The driver's parts are the real ones (producer, dispatcher, ledger, staleness, fleet), around
generators that answer when the roofline says that they would; printed are its processor seconds,
which are real, beside the steps' seconds, which are simulated. Then 60 days of steps with failures
at published rates are simulated without the driver. Deterministic but for the processor seconds.
"""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import driver_load  # noqa: E402
from published_figures import shapes  # noqa: E402
from simulation.virtual_time import VirtualLoop  # noqa: E402

from rlpost.roofline.communication import Layout  # noqa: E402
from rlpost.roofline.decoding import Engines, step_s  # noqa: E402
from rlpost.roofline.devices import BY_NAME  # noqa: E402
from rlpost.roofline.efficiency import EFFICIENCY  # noqa: E402
from rlpost.roofline.lengths import Lengths  # noqa: E402
from rlpost.roofline.pushing import push_s  # noqa: E402
from rlpost.roofline.training import update_s  # noqa: E402

SHAPE, H100 = shapes()["llama31_8b"], BY_NAME["h100"]
LENGTHS = Lengths(mean=3000, longest=8192)
GROUPS_PER_GENERATOR, TRAINERS = 4, 256
DAY_S = 24 * 3600.0
# Failures of a node of 8 GPUs a day: 419 unexpected interruptions in 54 days of 16,384 GPUs
# (arXiv 2407.21783); RSC-1 and RSC-2, and the 7.9 hours between failures of jobs of 1,024 GPUs
# (arXiv 2410.21680).
RATES = {
    "Llama 3": 419 / 54 / 2048, "RSC-2": 2.34e-3, "RSC-1": 6.5e-3, "jobs of 1,024": 24 / 7.9 / 128,
}  # fmt: skip
ENGINE_BOOT_S, TRAINER_RESTART_S = 180.0, 300.0


class PacedGenerator(driver_load.SimulatedGenerator):
    """Answers a group when its longest response is done."""

    def __init__(self, served: list[int], *, token_s: float, draw: random.Random) -> None:
        super().__init__(served, delay_s=0.0)
        self._token_s, self._draw, self._points = token_s, draw, LENGTHS.points()

    async def generate(self, request):  # noqa: ANN001, ANN201 - as the class that it paces
        longest = max(self._draw.choice(self._points) for _ in range(request.num_samples))
        self._delay_s = longest * self._token_s
        return await super().generate(request)


def durations(generators: int) -> tuple[float, float, float]:
    """Return seconds of a token of a response, of training on a step, and of a push."""
    at_once = GROUPS_PER_GENERATOR * driver_load.GROUP
    token = step_s(SHAPE, H100, Engines(number=1), at_once, LENGTHS.mean / 2, EFFICIENCY)
    layout = Layout(devices=TRAINERS, micro_batch_tokens=16384, recomputed=1.0)
    tokens = generators * at_once * LENGTHS.mean
    training = update_s(SHAPE, H100, layout, tokens=tokens, length=LENGTHS.mean)
    return token, training, push_s(2 * SHAPE.parameters, "broadcast")


async def drive(num: int, steps: int) -> float:
    """Run ``steps`` with the real driver; return its processor seconds a step."""
    token, training, push = durations(num)
    driver_load.BATCH = num * GROUPS_PER_GENERATOR
    world = driver_load.World(num)
    draw = random.Random(0)

    def paced(served: list[int], *, delay_s: float) -> PacedGenerator:
        return PacedGenerator(served, token_s=token, draw=draw)

    driver_load.SimulatedGenerator = paced
    producer = driver_load.build(argparse.Namespace(rate=0), world)
    world.push(1)
    producer.committed(version=1, step=0)
    loop = asyncio.get_running_loop()
    cpu_s, start_s = time.process_time(), loop.time()
    for step in range(1, steps + 1):
        await producer.next_batch()
        await asyncio.sleep(training)
        producer.trained(step=step)
        await asyncio.sleep(push)
        world.push(step + 1)
        producer.committed(version=step + 1, step=step)
    used, lasted = (time.process_time() - cpu_s) / steps, (loop.time() - start_s) / steps
    await producer.stop()
    print(
        f"{num:5} generators, {driver_load.BATCH:5} groups a step of {lasted:6.1f} s (training "
        f"{training:.1f}, push {push:.1f}): the driver takes {used:6.2f} processor s a step, "
        f"{1e6 * used / driver_load.BATCH:5.0f} us a group"
    )
    return used


def goodput(
    rate: float, *, nodes: tuple[int, int], step: float, every: int, save_s: float
) -> float:
    """Return the share of 60 days that went into steps that stayed.

    Args:
        rate: failures of a node a day.
        nodes: of generators, of the trainer.
        step: seconds of a step with all generators.
        every: steps between checkpoints.
        save_s: seconds for which a checkpoint stops training.
    """
    draw, now, done, saved, useful = random.Random(0), 0.0, 0, 0, 0.0
    away: list[float] = []  # when a generator's node is back

    def next_in(number: int) -> float:
        return draw.expovariate(rate * number / DAY_S)

    generator_fails, trainer_fails = next_in(nodes[0]), next_in(nodes[1])
    while now < 60 * DAY_S:
        away = [back for back in away if back > now]
        lasted = step * nodes[0] / max(1, nodes[0] - len(away))
        if trainer_fails < now + lasted:  # back to the last checkpoint
            now = trainer_fails + TRAINER_RESTART_S
            done, trainer_fails = saved, now + next_in(nodes[1])
            useful = min(useful, saved * step)
            continue
        now += lasted
        while generator_fails < now:
            away.append(generator_fails + ENGINE_BOOT_S + step)  # it waits for the next push
            generator_fails += next_in(nodes[0])
        done += 1
        useful = done * step
        if done % every == 0:
            saved, now = done, now + save_s
    return useful / now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--generators", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--steps", type=int, default=2)
    args = parser.parse_args()
    for number in args.generators:
        loop = VirtualLoop(max_s=1e9, max_iterations=10**9)
        loop.run_until_complete(drive(number, args.steps))
        loop.cancel_all()
    token, training, push = durations(1024)
    step = max(training, LENGTHS.longest * token) + push
    nodes = 1024 // 8, TRAINERS // 8
    print(f"\ngoodput of 1,024 generators and {TRAINERS} trainer GPUs, steps of {step:.0f} s:")
    for name, rate in RATES.items():
        for every, save_s in ((1, 23.0), (10, 23.0), (50, 23.0), (10, 2.0)):
            share = goodput(rate, nodes=nodes, step=step, every=every, save_s=save_s)
            print(f"{name:14} {1e3 * rate:5.2f} a 1,000 node-days, a checkpoint every {every:3} "
                  f"steps that stops training for {save_s:4.1f} s: {share:.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
