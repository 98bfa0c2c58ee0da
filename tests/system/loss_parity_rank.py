"""One rank of tests/system/test_loss_parity.py: every objective in one process.

    python loss_parity_rank.py MODEL RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

Every registered policy loss, the likelihood, and a loss on pairs that has a term per unit and
one per token, each with a denominator of its own.
CONTROL: none | local_mean (each micro-batch normalised by its own tokens and units) | divided
(all ranks share each micro-batch).
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from packed_groups import (
    load_plain,
    pack_into,
    plain_scores,
    random_groups,
    relative_difference,
    with_columns,
)

from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.loss import Loss, LossBatch, Objective, Outputs
from rlpost.algorithms.losses import losses
from rlpost.algorithms.losses.covariance import token_selection
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.units import Unit
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank

MICRO_BATCHES = (1, 4)
LR = 1e-30  # a step that consumes the gradient and moves nothing
OPTIONS = {"clip_cov": {"fraction": 0.1, "covariance_low": 0.1}, "kl_cov": {"fraction": 0.1}}


@dataclass(frozen=True, kw_only=True)
class PairObjective:
    """-log sigmoid of the margin between a unit's two items, and the first one's likelihood."""

    columns: tuple[str, ...] = ("weight_R", "weight_U")

    def __call__(self, outputs: Outputs, batch: LossBatch) -> Loss:
        scores_I = torch.zeros(batch.num_items).index_add(0, batch.item_R, outputs.scores_R)
        is_dummy = batch.num_items == 1
        scores_U2 = scores_I.expand(1, 2) if is_dummy else scores_I.view(-1, 2)
        first_U, second_U = scores_U2.unbind(1)
        values_U = -torch.nn.functional.logsigmoid(0.1 * (first_U - second_U))
        return Loss(
            values_R=-outputs.scores_R,
            values_U=values_U,
            diagnostics_U=Diagnostics(means={"margin": (first_U - second_U).detach()}),
        )


def groups_for(loss) -> Callable[[int, int], Packed]:
    """The same responses in any number of micro-batches, with the tokens the loss chooses."""
    groups, advantages = random_groups()
    select = token_selection(loss) if loss is not None else None
    episodes = [episode for group in groups for episode in group.episodes]
    chosen = None
    if select is not None:
        parts = select(
            [
                np.repeat(a, e.num_sampled)
                for a, e in zip(advantages.ravel(), episodes, strict=True)
            ],
            rollout_logprobs=[np.array(e.trajectories[0].rollout_logprobs) for e in episodes],
            config=loss,
            seed=0,
        )
        chosen = dict(enumerate(parts))

    def packed(ranks: int, count: int) -> Packed:
        whole = pack_into(groups, advantages, num_ranks=ranks, num_micro_batches=count)
        return whole.attach(selected_R=chosen)

    return packed


def pairs(ranks: int, count: int) -> Packed:
    """Two responses to each prompt; the first of them is also imitated."""
    groups, _ = random_groups(num_prompts=16, group_size=2)
    units = [
        Unit.sharing(
            group.prompt.token_ids,
            {2 * p + i: e.response_ids for i, e in enumerate(group.episodes)},
        )
        for p, group in enumerate(groups)
    ]
    firsts = sum(len(unit.items[0].ids) for unit in units)
    weight_R = {
        item.number: np.full(len(item.ids), (item.number + 1) % 2 / firsts)
        for unit in units
        for item in unit.items
    }
    for max_tokens in range(1000, 20, -1):
        packed = pack(units, num_ranks=ranks, max_tokens=max_tokens)
        if len(packed.batches[0]) == count:
            return packed.attach(weight_R=weight_R, weight_U=np.full(len(units), 1 / len(units)))
    raise AssertionError("no budget gives that many micro-batches")


def cases() -> Iterator[tuple[str, Objective, Callable[[int, int], Packed]]]:
    for entry in losses:
        config = entry.config(**OPTIONS.get(entry.name, {}))
        yield entry.name, PolicyObjective(loss=config, kl=KLConfig()), groups_for(config)
    yield "likelihood", LikelihoodObjective(), groups_for(None)
    yield "pairs", PairObjective(), pairs


def reference_gradient(model: torch.nn.Module, packed: Packed, objective: Objective):
    """One plain forward per item, one loss over all of them, the last unit first."""
    model.zero_grad()
    real = [batch for rank in packed.batches for batch in rank if not batch.is_dummy]
    units: dict[int, list[int]] = {}
    scores: dict[int, torch.Tensor] = {}
    columns: dict[str, dict[int, torch.Tensor]] = {name: {} for name in real[0].columns}
    for batch in real:
        scores_R = plain_scores(model, batch)[0]
        for slot, number in enumerate(batch.number_I.tolist()):
            mine_R = torch.from_numpy(batch.item_R == slot)
            unit = int(batch.unit_I[slot])
            units.setdefault(int(batch.number_U[unit]), []).append(number)
            scores[number] = scores_R[mine_R]
            for name, values in batch.columns.items():
                whole = torch.from_numpy(values)
                if name.endswith("_R"):
                    columns[name][number] = whole[mine_R]
                else:
                    columns[name][int(batch.number_U[unit])] = whole[unit][None]
    order = sorted(units)[::-1]
    numbers = [number for unit in order for number in units[unit]]
    counts = torch.tensor([len(scores[number]) for number in numbers])
    whole = LossBatch(
        item_R=torch.arange(len(numbers)).repeat_interleave(counts),
        unit_I=torch.arange(len(order)).repeat_interleave(
            torch.tensor([len(units[unit]) for unit in order])
        ),
        num_items=len(numbers),
        num_units=len(order),
        columns={
            name: torch.cat([values[k] for k in (numbers if name.endswith("_R") else order)])
            for name, values in columns.items()
        },
    )
    outputs = Outputs(scores_R=torch.cat([scores[number] for number in numbers]))
    result = objective(outputs, whole)
    loss = (whole.columns["weight_R"] * result.values_R).sum()
    if result.values_U is not None:
        loss = loss + (whole.columns["weight_U"] * result.values_U).sum()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def locally_weighted(batch: MicroBatch) -> MicroBatch:
    weights = {name: a for name, a in batch.columns.items() if name.startswith("weight_")}
    return with_columns(batch, **{name: np.full_like(a, 1 / len(a)) for name, a in weights.items()})


def main() -> None:
    from deepspeed.utils import safe_get_full_grad

    path, rank, world_size, ports, result, control = sys.argv[1:]
    rank, world_size = int(rank), int(world_size)
    cfg = TrainerConfig(
        dtype=DType.float32,
        threads=1,
        num_ranks=world_size,
        sequence_parallel_size=world_size if control == "divided" else 1,
        lr=LR,
    )
    place = Rank(
        rank=rank,
        world_size=world_size,
        master_address="127.0.0.1",
        master_port=json.loads(Path(ports).read_text())[0],
    )
    trainer = DeepSpeedTrainer(cfg, model=TrainedModel.policy(path, cfg), place=place, seed=0)
    plain, found, step = load_plain(path), {}, 0
    for name, objective, packed_into in cases():
        for count in MICRO_BATCHES:
            packed = packed_into(cfg.data_ranks, count)
            mine = packed.batches[rank // cfg.sequence_parallel_size]
            if control == "local_mean":
                mine = [locally_weighted(batch) for batch in mine]
            trainer.forward_backward(mine, objective)
            ours = {
                name: safe_get_full_grad(p).detach().float().clone()
                for name, p in trainer.module.model.named_parameters()
            }
            step += 1
            trainer.optim_step(step)
            if rank == 0:  # it compares for all
                theirs = reference_gradient(plain, packed, objective)
                found[f"{name}, {count} micro-batches"] = relative_difference(ours, theirs)
    trainer.close()
    if rank == 0:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
