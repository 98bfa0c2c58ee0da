"""One rank of tests/system/test_gradient_parity.py: all cases in one process.

    python parity_rank.py MODEL RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

CONTROL: none | local_mean (each micro-batch normalised by its own tokens) | no_boundary (the
engine is not told which backward pass is the last).
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from packed_groups import load_plain, pack_into, plain_scores, random_groups, relative_difference

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.training.batch import TokenBatch
from rlpost.training.deepspeed_trainer import DeepSpeedTrainer
from rlpost.training.objective import Objective
from rlpost.training.packing import PackedBatches
from rlpost.training.settings import DType, TrainerConfig

OBJECTIVE = Objective(loss=ReinforceConfig(), kl=KLConfig())
STAGES, MICRO_BATCHES = (0, 1, 2, 3), (1, 2, 4)


def reference_gradient(path: str, batches: PackedBatches) -> dict[str, torch.Tensor]:
    """One plain backward pass over the whole optimizer batch."""
    model = load_plain(path)
    loss = sum(
        (torch.from_numpy(b.loss_weight_R * -b.advantages_R) * plain_scores(model, b)[0]).sum()
        for rank_batches in batches
        for b in rank_batches
        if not b.is_dummy
    )
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def engine_gradient(trainer: DeepSpeedTrainer) -> dict[str, torch.Tensor]:
    """The accumulated, rank-averaged gradient (collective)."""
    from deepspeed.utils import safe_get_full_grad

    plain = trainer.cfg.zero_stage == 0
    gradients = {}
    for name, p in trainer._engine.module.model.named_parameters():
        gradient = p.grad if plain else safe_get_full_grad(p)
        gradients[name] = gradient.detach().float().clone()
    return gradients


def locally_weighted(batch: TokenBatch) -> TokenBatch:
    """The classic mistake: the mean over the micro-batch's own tokens."""
    weight_R = np.full_like(batch.loss_weight_R, 1 / len(batch.loss_weight_R))
    return replace(batch, loss_weight_R=weight_R)


def main() -> None:
    path, rank, world_size, ports, result, control = sys.argv[1:]
    rank, world_size = int(rank), int(world_size)
    available = iter(json.loads(Path(ports).read_text()))
    found = {}
    for stage in STAGES:
        for count in MICRO_BATCHES:
            batches = pack_into(*random_groups(), num_ranks=world_size, num_micro_batches=count)
            mine = batches[rank]
            trainer = DeepSpeedTrainer(
                TrainerConfig(
                    dtype=DType.float32, threads=1, zero_stage=stage, num_ranks=world_size
                ),
                model_path=path,
                rank=rank,
                world_size=world_size,
                master_address="127.0.0.1",
                master_port=next(available),
                seed=0,
            )
            if control == "local_mean":
                mine = [locally_weighted(batch) for batch in mine]
            if control == "no_boundary":
                trainer._set_boundary = lambda is_last: None
            trainer.forward_backward(mine, objective=OBJECTIVE, temperature=1.0)
            ours = engine_gradient(trainer)
            trainer.close()
            theirs = reference_gradient(path, batches)
            found[f"stage {stage}, {count} micro-batches"] = relative_difference(ours, theirs)
    if rank == 0:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
