"""One rank of tests/system/test_loss_parity.py: every registered loss in one process.

    python loss_parity_rank.py MODEL RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

CONTROL: none | local_mean (each micro-batch normalised by its own tokens).
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from packed_groups import load_plain, pack_into, plain_scores, random_groups, relative_difference

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import PolicyLossInputs, losses
from rlpost.algorithms.losses.covariance import token_selection
from rlpost.training.batch import TokenBatch
from rlpost.training.deepspeed_trainer import DeepSpeedTrainer
from rlpost.training.objective import Objective
from rlpost.training.packing import PackedBatches, attach
from rlpost.training.settings import DType, TrainerConfig

MICRO_BATCHES = (1, 4)
LR = 1e-30  # a step that consumes the gradient and moves nothing
OPTIONS = {"clip_cov": {"fraction": 0.1, "covariance_low": 0.1}, "kl_cov": {"fraction": 0.1}}


def batches_for(loss, *, ranks: int, count: int) -> PackedBatches:
    """The same responses in ``count`` micro-batches a rank, with the tokens the loss chooses."""
    groups, advantages = random_groups()
    batches = pack_into(groups, advantages, num_ranks=ranks, num_micro_batches=count)
    select = token_selection(loss)
    if select is None:
        return batches
    trajectories = [t for group in groups for t in group.trajectories]
    chosen = select(
        [
            np.repeat(a, len(t.response_ids))
            for a, t in zip(advantages.ravel(), trajectories, strict=True)
        ],
        rollout_logprobs=[np.array(t.rollout_logprobs) for t in trajectories],
        config=loss,
        seed=0,
    )
    return attach(batches, selected_R=dict(enumerate(chosen)))


def reference_gradient(path: str, batches: PackedBatches, objective: Objective):
    """One plain forward per response, one loss over all of them, the last response first."""
    model = load_plain(path)
    real = [[b for b in rank if not b.is_dummy] for rank in batches]
    scores = [[plain_scores(model, b)[0] for b in rank] for rank in real]
    numbers = sorted({int(n) for rank in real for b in rank for n in b.sequence_R})[::-1]

    def whole(columns) -> torch.Tensor:
        by_number: dict[int, torch.Tensor] = {}
        for rank, rank_columns in zip(real, columns, strict=True):
            for batch, column_R in zip(rank, rank_columns, strict=True):
                for n in set(batch.sequence_R.tolist()):
                    by_number[n] = column_R[torch.from_numpy(batch.sequence_R == n)]
        return torch.cat([by_number[n] for n in numbers])

    def field(name: str) -> torch.Tensor:
        return whole([[torch.from_numpy(getattr(b, name)) for b in rank] for rank in real])

    selected_R = None if real[0][0].selected_R is None else field("selected_R")
    inputs = PolicyLossInputs(
        policy_logprobs_R=whole(scores),
        anchor_logprobs_R=field("rollout_logprobs_R"),
        advantages_R=field("advantages_R"),
        sequence_R=field("sequence_R"),
        selected_R=selected_R,
    )
    values_R = objective.per_token(inputs, ref_logprobs_R=None).values_R
    (field("loss_weight_R") * values_R).sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def locally_weighted(batch: TokenBatch) -> TokenBatch:
    weight_R = np.full_like(batch.loss_weight_R, 1 / len(batch.loss_weight_R))
    return replace(batch, loss_weight_R=weight_R)


def main() -> None:
    from deepspeed.utils import safe_get_full_grad

    path, rank, world_size, ports, result, control = sys.argv[1:]
    rank, world_size = int(rank), int(world_size)
    trainer = DeepSpeedTrainer(
        TrainerConfig(dtype=DType.float32, threads=1, num_ranks=world_size, lr=LR),
        model_path=path,
        rank=rank,
        world_size=world_size,
        master_address="127.0.0.1",
        master_port=json.loads(Path(ports).read_text())[0],
        seed=0,
    )
    found, step = {}, 0
    for entry in losses:
        objective = Objective(loss=entry.config(**OPTIONS.get(entry.name, {})), kl=KLConfig())
        for count in MICRO_BATCHES:
            batches = batches_for(objective.loss, ranks=world_size, count=count)
            mine = batches[rank]
            if control == "local_mean":
                mine = [locally_weighted(batch) for batch in mine]
            trainer.forward_backward(mine, objective=objective, temperature=1.0)
            ours = {
                name: safe_get_full_grad(p).detach().float().clone()
                for name, p in trainer._stepper.module.model.named_parameters()
            }
            step += 1
            trainer.optim_step(step)
            theirs = reference_gradient(path, batches, objective)
            found[f"{entry.name}, {count} micro-batches"] = relative_difference(ours, theirs)
    trainer.close()
    if rank == 0:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
