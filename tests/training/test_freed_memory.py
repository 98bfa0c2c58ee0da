"""Memory that is freed between what is kept, on a CPU."""

import psutil
import torch

from rlpost.training.freed_memory import give_back, returned_when_freed

MIB = 2**20
BLOCKS, BLOCK_MIB = 64, 4


def freed_mib(kept: list[torch.Tensor]) -> float:
    """Return by how much resident memory falls when every second of these blocks is freed."""
    kept += [torch.ones(BLOCK_MIB * MIB // 4) for _ in range(BLOCKS)]
    before = psutil.Process().memory_info().rss
    del kept[::2]
    return (before - psutil.Process().memory_info().rss) / MIB


def test_blocks_go_back_at_once_inside_and_stay_with_the_heap_outside():
    half, kept = BLOCKS * BLOCK_MIB / 2, []
    with returned_when_freed():
        assert freed_mib(kept) > 0.9 * half
    kept = []
    assert freed_mib(kept) < 0.1 * half
    before = psutil.Process().memory_info().rss
    give_back(torch.device("cpu"))
    assert (before - psutil.Process().memory_info().rss) / MIB > 0.9 * half
