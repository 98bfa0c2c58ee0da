"""How full micro-batches are, and how long ranks in lock-step wait: balanced by tokens and by work.

    .venv/bin/python benchmarks/packing.py

Random lengths, no model. `fill` is the share of all micro-batches' room that is used; `waits` is
the sum over rounds of the heaviest rank's work over the mean rank's work, 1 when nobody waits.
"""

import time
from collections.abc import Sequence

import numpy as np

from rlpost.training.packing.pack import pack
from rlpost.training.packing.units import Unit
from rlpost.training.packing.work import BY_TOKENS, ForwardWork

WORK = ForwardWork(body=6_500_000_000, head=545_000_000, attention=28 * 28 * 128)  # 7B


def groups(lengths_PG: np.ndarray, *, prompt: int) -> list[Unit]:
    """Groups with prompts of one length and responses of these."""
    return [
        Unit.sharing([p] * prompt, {p * len(lengths_G) + g: [0] * length}, family=p)
        for p, lengths_G in enumerate(lengths_PG.tolist())
        for g, length in enumerate(lengths_G)
    ]


def show(name: str, units: Sequence[Unit], *, num_ranks: int, max_tokens: int) -> None:
    for balanced, work in (("tokens", BY_TOKENS), ("work", WORK)):
        start = time.process_time()
        packed = pack(units, num_ranks=num_ranks, max_tokens=max_tokens, work=work)
        spent_ms = 1e3 * (time.process_time() - start)
        rounds, tokens = len(packed.batches[0]), packed.sizes()["perf/packed_tokens"]
        flops = np.array([[WORK.of_batch(b) for b in mine] for mine in packed.batches], float)
        waits = flops.max(0).sum() / flops.sum(1).mean()
        fill = tokens / (num_ranks * rounds * max_tokens)
        print(
            f"| {name} | {num_ranks} | {max_tokens} | {balanced} | {rounds} | {fill:.2f} | "
            f"{tokens:,.0f} | {waits:.3f} | {spent_ms:.0f} |"
        )


def main() -> None:
    print("| lengths | ranks | budget | by | rounds | fill | tokens | waits | CPU ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    even = groups(rng.integers(200, 1001, (16, 8)), prompt=200)
    for num_ranks in (1, 4):
        for max_tokens in (16384, 8192, 2048):
            show("200 to 1000", even, num_ranks=num_ranks, max_tokens=max_tokens)
    skewed = rng.lognormal(np.log(750), 1.0, (64, 8)).clip(500, 32000).astype(int)
    show("log-normal to 32,000", groups(skewed, prompt=300), num_ranks=8, max_tokens=33280)
    large = groups(rng.integers(200, 4001, (1024, 16)), prompt=300)
    show("1,024 groups of 16", large, num_ranks=64, max_tokens=16384)


if __name__ == "__main__":
    main()
