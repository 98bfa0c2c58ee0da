"""How full and how even micro-batches are. That nothing is lost: test_pack.py."""

import numpy as np
import pytest

from rlpost.training.packing import filling
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.units import Unit
from rlpost.training.packing.work import BY_TOKENS, ForwardWork

# A model of 7 billion parameters.
WORK = ForwardWork(body=6_500_000_000, head=545_000_000, attention=28 * 28 * 128)


def groups(lengths_PG: np.ndarray, *, prompt: int) -> list[Unit]:
    return [
        Unit.sharing([p] * prompt, {p * len(lengths_G) + g: [0] * length}, family=p)
        for p, lengths_G in enumerate(lengths_PG.tolist())
        for g, length in enumerate(lengths_G)
    ]


def rounds_and_fill(packed: Packed, *, max_tokens: int) -> tuple[int, float]:
    """Micro-batches of a rank, and the share of their room that is used."""
    rounds, tokens = len(packed.batches[0]), packed.sizes()["perf/packed_tokens"]
    return rounds, tokens / (len(packed.batches) * rounds * max_tokens)


def waits(packed: Packed) -> float:
    """What ranks in lock-step wait for, over the mean of their work: 1 when nobody waits."""
    flops = np.array([[WORK.of_batch(b) for b in mine] for mine in packed.batches], dtype=float)
    return float(flops.max(0).sum() / flops.sum(1).mean())


def test_ranks_of_equal_work_wait_less_than_ranks_of_equal_tokens():
    lengths_PG = np.random.default_rng(0).lognormal(np.log(750), 1.0, (64, 8)).clip(500, 32000)
    units = groups(lengths_PG.astype(int), prompt=300)
    layout = {"num_ranks": 8, "max_tokens": 33280}
    assert waits(pack(units, **layout, work=BY_TOKENS)) > 1.05
    assert waits(pack(units, **layout, work=WORK)) < 1.01


@pytest.mark.parametrize("num_ranks", [1, 4])
def test_groups_that_fill_half_a_micro_batch_are_divided(num_ranks, monkeypatch):
    lengths_PG = np.random.default_rng(0).integers(500, 801, (16, 8))
    units, layout = groups(lengths_PG, prompt=200), {"num_ranks": num_ranks, "max_tokens": 8192}
    rounds, fill = rounds_and_fill(pack(units, **layout, work=WORK), max_tokens=8192)
    monkeypatch.setattr(filling, "_divided", filling._whole)
    whole_rounds, whole_fill = rounds_and_fill(pack(units, **layout, work=WORK), max_tokens=8192)
    assert (whole_rounds, rounds) == {1: (16, 12), 4: (4, 3)}[num_ranks]
    assert whole_fill < 0.7 and fill > 0.85


def test_a_long_prompt_is_not_repeated_to_fill_a_micro_batch():
    units = groups(np.full((6, 8), 100), prompt=4000)
    packed = pack(units, num_ranks=1, max_tokens=8192, work=WORK)
    assert packed.sizes()["perf/packed_tokens"] == 6 * 4800


def test_one_sequence_of_more_work_than_the_others_together_stands_alone():
    units = groups(np.array([[8000, 10, 10, 10]]), prompt=5)
    packed = pack(units, num_ranks=2, max_tokens=8192, work=WORK)
    sizes = sorted(batch.num_tokens for mine in packed.batches for batch in mine)
    assert sizes == [35, 8005]
