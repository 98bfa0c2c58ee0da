"""Memory that is freed between what is kept, on a CPU.

Measured in a process that has freed nothing large before: the C library takes any block from a hole
of the heap where one fits, and what the tests before this one left would have such holes.
"""

import json
import subprocess
import sys

import psutil
import torch

from rlpost.training.freed_memory import give_back, returned_when_freed

MIB = 2**20
BLOCKS, BLOCK_MIB = 64, 4
HALF_MIB = BLOCKS * BLOCK_MIB / 2


def resident_mib() -> float:
    return psutil.Process().memory_info().rss / MIB


def freed_mib(kept: list[torch.Tensor]) -> float:
    """Return by how much resident memory falls when every second of these blocks is freed."""
    kept += [torch.ones(BLOCK_MIB * MIB // 4) for _ in range(BLOCKS)]
    before = resident_mib()
    del kept[::2]
    return before - resident_mib()


def measure() -> dict[str, float]:
    """Return what freeing gives back inside a block, after it, and when it is asked for."""
    with returned_when_freed():
        inside = freed_mib([])
    kept: list[torch.Tensor] = []
    outside = freed_mib(kept)
    before = resident_mib()
    give_back(torch.device("cpu"))
    return {"inside": inside, "outside": outside, "given back": before - resident_mib()}


def test_blocks_go_back_at_once_inside_and_stay_with_the_heap_outside():
    alone = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, check=True, timeout=300
    )
    freed = json.loads(alone.stdout)
    assert freed["inside"] > 0.9 * HALF_MIB
    assert freed["outside"] < 0.1 * HALF_MIB
    assert freed["given back"] > 0.9 * HALF_MIB


if __name__ == "__main__":
    json.dump(measure(), sys.stdout)
