"""Memory of two ranks that train, with the allocator's thresholds as loading leaves them and not.

    .venv/bin/python benchmarks/training_memory.py --steps 20

While a model is loaded, large blocks go back to the system when they are freed, and afterwards the
thresholds of the allocator stay where its own adaptation ends (``training/freed_memory.py``). What
is printed is the anonymous memory of a rank above that before loading, of the one that has more:
the highest while it trains, and the median of what it holds after each of the last ten steps.
``alone``: the allocator's thresholds were never touched. The model is a random Llama in bfloat16;
micro-batches have sequences of other lengths in every step.
"""

import argparse
import multiprocessing
import tempfile
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from sharded_loading import GB, RANKS, Peak, build, memory


def batches_of(step: int, *, tokens: int, rank: int) -> list[Any]:
    """Return two micro-batches of one rank."""
    import numpy as np

    from rlpost.training.packing.pack import pack
    from rlpost.training.packing.units import Unit

    rng = np.random.default_rng(step)
    units = [
        Unit.sharing(rng.integers(0, 256, 8).tolist(), {n: rng.integers(0, 256, length).tolist()})
        for n, length in enumerate(rng.integers(8, tokens // 4, 4 * RANKS))
    ]
    packed = pack(units, num_ranks=RANKS, max_tokens=tokens, fill=False)
    weights = {n: np.full(len(unit.items[0].ids), 1e-3) for n, unit in enumerate(units)}
    return packed.attach(weight_R=weights).batches[rank]


def train(number: int, path: str, port: int, options: dict[str, Any], answers: Any) -> None:
    """One rank: train, and tell how much it held, in GB."""
    from rlpost.algorithms.supervised import LikelihoodObjective
    from rlpost.algorithms.supervised.losses import losses
    from rlpost.training.model.loading import TrainedModel
    from rlpost.training.settings import DType, TrainerConfig
    from rlpost.training.zero import deepspeed_loading
    from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank

    if options["alone"]:
        deepspeed_loading.returned_when_freed = nullcontext
    cfg = TrainerConfig(
        zero_stage=options["stage"], num_ranks=RANKS, dtype=DType.bfloat16, threads=1
    )
    objective = LikelihoodObjective(loss=losses.get("nll").config())
    before = memory("RssAnon")
    place = Rank(rank=number, world_size=RANKS, master_address="127.0.0.1", master_port=port)
    model = TrainedModel.policy(path, cfg)
    trainer = DeepSpeedTrainer(cfg, model=model, place=place, seed=0)
    loaded, peak, held = memory("RssAnon") - before, Peak(), []
    for step in range(1, options["steps"] + 1):
        batches = batches_of(step, tokens=options["tokens"], rank=number)
        trainer.forward_backward(batches, objective)
        trainer.optim_step(step)
        held.append(memory("RssAnon") - before)
    answers.put({"loaded": loaded, "peak": loaded + peak.value, "held": median(held[-10:])})
    trainer.close()


def measure(path: str, **options: Any) -> dict[str, float]:
    """Return the larger number of the ranks."""
    from rlpost.network import free_port

    context, port = multiprocessing.get_context("spawn"), free_port()
    answers = context.Queue()
    ranks = [
        context.Process(target=train, args=(number, path, port, options, answers))
        for number in range(RANKS)
    ]
    for process in ranks:
        process.start()
    found = [answers.get(timeout=1200) for _ in ranks]
    for process in ranks:
        process.join()
    return {name: max(each[name] for each in found) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gb", type=float, default=0.2, help="size of the model's weights")
    parser.add_argument("--steps", type=int, default=20, help="updates of each run")
    parser.add_argument("--tokens", type=int, default=256, help="of the largest micro-batch")
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 3], help="of ZeRO")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:  # a process of its own gives its memory back
            size = pool.apply(build, (Path(directory),), {"gb": args.gb})
        print(f"model: {size / GB:.2f} GB, {RANKS} ranks, {args.steps} steps", flush=True)
        for stage in args.stages:
            for alone in (False, True):
                found = measure(
                    directory, stage=stage, alone=alone, steps=args.steps, tokens=args.tokens
                )
                numbers = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
                print(f"stage {stage}, {'alone' if alone else 'set'}: {numbers} GB", flush=True)


if __name__ == "__main__":
    main()
