"""Memory and time of two ranks that divide a frozen model, and of two that have all of it each.

    .venv/bin/python benchmarks/frozen_parts.py --gb 1

A random Llama in bfloat16 of so many gigabytes scores micro-batches of 32 tokens in each rank:
whole; divided, in DeepSpeed's engine; and divided, with weights gathered by hooks of rlpost's own
(``whole_in_passes``), which loading uses. Printed are the anonymous memory of the higher rank above
that before loading, until the model is loaded and over the passes, the median seconds of a pass,
and whether all answer the same, bit for bit.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharded_loading import GB, RANKS, Peak, build

WAYS = ("whole", "engine", "hooks")
TOKENS, PASSES = 32, 6


def rank(number: int, path: str, port: int, way: str, answers: Any) -> None:
    """Load, score, and tell peaks in GB, seconds and log-probs."""
    import torch

    from rlpost.training.model.loading import TrainedModel
    from rlpost.training.model.scorer import FrozenScorer
    from rlpost.training.packing.pack import one_batch
    from rlpost.training.packing.units import Unit
    from rlpost.training.settings import DType, TrainerConfig
    from rlpost.training.zero import deepspeed_engine as ds
    from rlpost.training.zero.deepspeed_scorer import DividedScorer
    from rlpost.training.zero.rank import Rank

    cfg = TrainerConfig(num_ranks=RANKS, dtype=DType.bfloat16, threads=1)
    model = TrainedModel.policy(path, cfg)
    ids = [(7 * number + 13 * place) % 256 for place in range(TOKENS)]
    batch = one_batch([Unit.sharing(ids[:16], {0: ids[16:]})])
    place = Rank(rank=number, world_size=RANKS, master_address="127.0.0.1", master_port=port)
    peak = Peak()
    if way == "engine":
        divided = DividedScorer(cfg, model=model, place=place)
        score: Callable[[], Any] = lambda: divided.score([batch], 1.0, passes=1)  # noqa: E731
    else:
        ds.join_ranks(**vars(place))
        if way == "whole":
            whole = FrozenScorer(cfg, model=model)
            for weight in whole._module.parameters():  # out of the mapped files, as onto a GPU
                weight.data = weight.data.clone()
            score = lambda: whole.score([batch], 1.0)  # noqa: E731
        else:
            score = by_hooks(model, batch)
    loaded, seconds = peak.value, []
    for _ in range(PASSES):
        torch.distributed.barrier()
        start_s = time.monotonic()
        (scores_R,) = score()
        torch.distributed.barrier()
        seconds.append(time.monotonic() - start_s)
    # The first two passes record the order of the gathers.
    said = {"loaded": loaded, "passes": peak.value, "seconds": statistics.median(seconds[2:])}
    answers.put((number, said, scores_R.tolist()))
    answers.close()
    answers.join_thread()
    torch.distributed.barrier()


def by_hooks(model: Any, batch: Any) -> Callable[[], Any]:
    """Divide the model without an engine; return what scores the batch."""
    import torch

    from rlpost.training.model.packed_model import score_batches
    from rlpost.training.zero.deepspeed_parts import load_in_parts
    from rlpost.training.zero.deepspeed_whole import whole_in_passes

    module = load_in_parts(model, dtype=torch.bfloat16, learns=False)
    assert module is not None
    module.eval().requires_grad_(False)

    def score() -> Any:
        with whole_in_passes(module):
            return score_batches(module, [batch], device=torch.device("cpu"), temperature=1.0)

    return score


def measure(path: str, way: str) -> tuple[dict[str, float], list[list[float]]]:
    """Return the larger figure of the ranks, and the log-probs of each."""
    from rlpost.network import free_port

    context, port = multiprocessing.get_context("spawn"), free_port()
    answers = context.Queue()
    ranks = [
        context.Process(target=rank, args=(number, path, port, way, answers))
        for number in range(RANKS)
    ]
    for process in ranks:
        process.start()
    found = sorted(answers.get(timeout=1200) for _ in ranks)
    for process in ranks:
        process.join()
    figures = {name: max(said[name] for _, said, _ in found) for name in found[0][1]}
    return figures, [scores for _, _, scores in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gb", type=float, default=1.0, help="size of the model's weights")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:  # a process of its own gives its memory back
            size = pool.apply(build, (Path(directory),), {"gb": args.gb})
        print(f"model: {size / GB:.2f} GB, {RANKS} ranks")
        found = {way: measure(directory, way) for way in WAYS}
    for way, (figures, scores) in found.items():
        same = scores == found["whole"][1]
        print(way, json.dumps(figures), "the same" if same else "OTHER ANSWERS")


if __name__ == "__main__":
    main()
