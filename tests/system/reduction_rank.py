"""One rank of tests/system/test_gradient_reduction.py: all cases in one process.

    python reduction_rank.py MODEL RANK WORLD_SIZE PORTS.json RESULT.json STAGES

What a rank adds to the sum is seen when the batches of all others weigh nothing: with zeros every
number format adds exactly.
"""

import json
import sys
from pathlib import Path

import numpy as np
from packed_groups import pack_into, random_groups, relative_difference, with_columns
from parity_rank import engine_gradient
from torch import Tensor

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.settings import DType, ReduceDType, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())


def without_weight(batch: MicroBatch) -> MicroBatch:
    return with_columns(batch, weight_R=np.zeros_like(batch.columns["weight_R"]))


def gradient(built: DeepSpeedTrainer, batches: list[MicroBatch], step: int) -> dict[str, Tensor]:
    """The gradient of one update, which changes no weight: the rate is 0."""
    built.forward_backward(batches, OBJECTIVE)
    found = engine_gradient(built.module, plain=built.cfg.zero_stage == 0)
    built.optim_step(step)
    return found


def main() -> None:
    path, rank, world_size, ports, result, stages = sys.argv[1:]
    rank, world_size = int(rank), int(world_size)
    groups, advantages = random_groups(num_prompts=8)
    mine = pack_into(groups, advantages, num_ranks=world_size).batches[rank]
    cases = [(int(stage), dtype) for stage in stages for dtype in ReduceDType]
    found: dict[str, list[float]] = {dtype.value: [] for dtype in ReduceDType}
    for (stage, reduced), port in zip(cases, json.loads(Path(ports).read_text()), strict=True):
        cfg = TrainerConfig(
            dtype=DType.bfloat16,
            reduce_dtype=reduced,
            threads=1,
            zero_stage=stage,
            num_ranks=world_size,
            lr=0.0,
        )
        place = Rank(rank=rank, world_size=world_size, master_address="127.0.0.1", master_port=port)
        built = DeepSpeedTrainer(cfg, model=TrainedModel.policy(path, cfg), place=place, seed=0)
        exact: dict[str, Tensor] = {}
        for other in range(world_size):
            batches = mine if other == rank else [without_weight(batch) for batch in mine]
            for name, part in gradient(built, batches, other + 1).items():
                exact[name] = exact[name] + part if name in exact else part
        ours = gradient(built, mine, world_size + 1)
        built.close()
        found[reduced.value].append(relative_difference(ours, exact))
    if rank == 0:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
