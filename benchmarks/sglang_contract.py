"""Runs the contract of pushes against an SGLang that is installed somewhere.

The tests run it against a stand-in (tests/sglang_stub/). Where there is an environment with SGLang,
this says whether the real one keeps it, and what its processes take::

    python benchmarks/sglang_contract.py --python DIR/bin/python \
        [--arguments --attention-backend torch_native]

On a CPU SGLang heeds no seeds, so the likeliest tokens are sampled where a story samples twice.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import push_contract as contract  # noqa: E402
from pushed_models import TorchPublisher, boot, bus_for, sample  # noqa: E402

from rlpost.errors import ProcessDied  # noqa: E402
from rlpost.models.tiny import build_tiny_llama  # noqa: E402
from rlpost.rollout.generator_config import Backend  # noqa: E402
from rlpost.rollout.sglang.config import SglangConfig  # noqa: E402


async def main(python: str, arguments: list[str]) -> int:
    """Boot one server and tell it every story; returns how many it did not keep."""
    contract.sample = partial(sample, temperature=0.0)
    with tempfile.TemporaryDirectory() as place:
        path = build_tiny_llama(Path(place) / "model", tied=False)
        start_s = time.perf_counter()
        sglang = SglangConfig(python=python, arguments=arguments)
        generator = await boot(path, backend=Backend.sglang, sglang=sglang)
        print(f"started in {time.perf_counter() - start_s:.1f} s", flush=True)
        publisher = TorchPublisher(path, run_id=Path(place).name)
        try:
            return await _told(publisher, generator)
        finally:
            start_s = time.perf_counter()
            await generator.close()
            publisher.sender.close()
            print(f"ended in {time.perf_counter() - start_s:.1f} s")


async def _told(publisher: Any, generator: Any) -> int:
    bus = bus_for(publisher, generator)
    stories = {
        "every push is exact": contract.every_push_is_exact(publisher, generator, bus),
        "wrong pushes are refused": contract.wrong_pushes_are_refused(
            publisher, generator, bus, untied=True
        ),
        "stops end a response": contract.stops_end_a_response(publisher, generator),
        "requests go on over a push": contract.requests_go_on_over_a_push(
            publisher, generator, bus
        ),
        "requests are given up": contract.requests_are_given_up(publisher, generator, bus),
        "a finished response waits": contract.a_finished_response_waits_for_the_push(
            publisher, generator, bus
        ),
        "its death is named": _its_death_is_named(generator),
    }
    _say_memory()
    broken = 0
    for name, story in stories.items():
        start_s = time.perf_counter()
        (error,) = await asyncio.gather(story, return_exceptions=True)
        broken += error is not None
        result = "kept" if error is None else f"BROKEN ({type(error).__name__}: {error})"
        print(f"{name}: {result}, {time.perf_counter() - start_s:.1f} s", flush=True)
    return broken


def _say_memory() -> None:
    for process in psutil.Process().children(recursive=True):
        memory = process.memory_full_info()
        name = " ".join(process.cmdline())[-60:]
        print(f"{memory.uss / 2**30:.2f} GiB of its own, {memory.rss / 2**30:.2f} mapped: {name}")


async def _its_death_is_named(generator: Any) -> None:
    try:
        await generator.logprobs([[10**6, 5]])  # a token that no vocabulary has
    except ProcessDied:
        return
    raise AssertionError("it lives")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True)
    parser.add_argument("--arguments", nargs=argparse.REMAINDER, default=[])
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.python, given.arguments)))
