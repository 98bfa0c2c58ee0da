"""One rank of tests/system/test_gradient_parity.py: all cases in one process.

    python parity_rank.py ROLE MODEL RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

ROLE: policy | critic (MODEL is then a reward model, so that no gradient is zero). The policy's
episodes have observations, and every second one has two trajectories.
CONTROL: none | local_mean (each micro-batch normalised by its own tokens) | no_boundary (the
engine is not told which backward pass is the last) | divided, divided twice (two neighbours share
each micro-batch) | no_exchange (they do, and each attends to its own tokens alone).
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import adapter_parity
import numpy as np
import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from episodes import in_two_trajectories, sampled_places
from packed_groups import (
    load_plain,
    pack_into,
    random_groups,
    relative_difference,
    with_columns,
)
from reward_models import load_plain_classifier, plain_values, with_returns

from rlpost.algorithms.critic_loss import CriticLossConfig, CriticObjective
from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.training.model import sequence_parallel
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.packing.pack import Batches
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank
from rlpost.types import Group

CLIP = 0.3
STAGES = (0, 1, 2, 3)
# Stage and number of micro-batches; a control needs those alone that it makes wrong.
CASES = {
    "none": [(stage, count) for stage in STAGES for count in (1, 4)],
    "local_mean": [(2, 4)],
    "divided": [(stage, 2) for stage in STAGES],
    "divided twice": [(3, 2)],
    "no_exchange": [(2, 2)],
    "no_boundary": [(1, 4)],  # a lone rank at stage 2 has a sum that needs no telling
}


class PolicyRole:
    """The policy under plain REINFORCE."""

    objective = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())

    @staticmethod
    def model(path: str, cfg: TrainerConfig) -> TrainedModel:
        return TrainedModel.policy(path, cfg)

    @staticmethod
    def parameters(module: torch.nn.Module) -> torch.nn.Module:
        return module.model

    @staticmethod
    def groups() -> tuple[list[Group], np.ndarray]:
        groups, advantages = random_groups()
        return [_with_two_trajectories(group) for group in groups], advantages

    @staticmethod
    def plain_loss(model, groups: list[Group], advantages: np.ndarray, batches: Batches):
        """The mean over sampled tokens, from the episodes themselves."""
        losses = []
        for group, row in zip(groups, advantages, strict=True):
            for episode, advantage in zip(group.episodes, row, strict=True):
                for each in episode.trajectories:
                    ids = [*each.prompt_ids, *each.response_ids]
                    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
                    places = [len(each.prompt_ids) + place for place in sampled_places(each)]
                    losses += [-advantage * logprobs[place - 1, ids[place]] for place in places]
        return torch.stack(losses).mean()

    load_plain = staticmethod(load_plain)


class CriticRole:
    """The critic under the clipped value loss."""

    objective = CriticObjective(loss=CriticLossConfig(clip=CLIP))

    @staticmethod
    def model(path: str, cfg: TrainerConfig) -> TrainedModel:
        return TrainedModel.critic(path, policy_path=path)

    @staticmethod
    def parameters(module: torch.nn.Module) -> torch.nn.Module:
        return module

    groups = staticmethod(random_groups)

    @staticmethod
    def plain_loss(model, groups: list[Group], advantages: np.ndarray, batches: Batches):
        total = torch.zeros(())
        for batch in (b for rank_batches in batches for b in rank_batches if not b.is_dummy):
            values_R = plain_values(model, batch)
            weight_R, old_R, returns_R = (
                torch.from_numpy(batch.columns[name])
                for name in ("weight_R", "rollout_values_R", "returns_R")
            )
            near_R = torch.minimum(torch.maximum(values_R, old_R - CLIP), old_R + CLIP)
            losses_R = torch.maximum((values_R - returns_R) ** 2, (near_R - returns_R) ** 2)
            total = total + 0.5 * (weight_R * losses_R).sum()
        return total

    load_plain = staticmethod(load_plain_classifier)


ROLES = {"policy": PolicyRole, "critic": CriticRole}


def _with_two_trajectories(group: Group) -> Group:
    episodes = [
        in_two_trajectories(episode) if episode.sample % 2 and episode.num_sampled > 1 else episode
        for episode in group.episodes
    ]
    return replace(group, episodes=tuple(episodes))


def reference_gradient(role: type, path: str, *whole: Any) -> dict[str, torch.Tensor]:
    """One plain backward pass over the whole optimizer batch; rank 0 does it for all."""
    model = role.load_plain(path)
    role.plain_loss(model, *whole).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def engine_gradient(module: torch.nn.Module, *, plain: bool) -> dict[str, torch.Tensor]:
    """The accumulated, rank-averaged gradient (collective)."""
    from deepspeed.utils import safe_get_full_grad

    gradients = {}
    for name, p in module.named_parameters():
        gradient = p.grad if plain else safe_get_full_grad(p)
        gradients[name] = gradient.detach().float().clone()
    return gradients


def locally_weighted(batch: MicroBatch) -> MicroBatch:
    """The classic mistake: the mean over the micro-batch's own tokens."""
    weight_R = np.full_like(batch.columns["weight_R"], 1 / len(batch.target_R))
    return with_columns(batch, weight_R=weight_R)


def adapter_differences(
    path: str, rank: int, world_size: int, ports: Iterator[int], place: Path
) -> dict[str, float]:
    """What updates make of adapters, at every stage, against plain peft in rank 0 alone."""
    groups, advantages = PolicyRole.groups()
    packed = pack_into(groups, advantages, num_ranks=world_size, num_micro_batches=2)
    found, expected = {}, {}
    for kind, stage in adapter_parity.CASES:
        cfg = TrainerConfig(
            dtype=DType.float32,
            threads=1,
            zero_stage=stage,
            num_ranks=world_size,
            max_grad_norm=1e9,  # peft's scores are made of gradients before they are clipped
            lr=1e-2,
        )
        start = adapter_parity.start_from(path, kind, place / f"{kind}-{rank}")
        if rank == 0 and kind not in expected:
            loss = partial(
                PolicyRole.plain_loss, groups=groups, advantages=advantages, batches=packed.batches
            )
            expected[kind] = adapter_parity.updated_plainly(path, start, loss, cfg)
        built = DeepSpeedTrainer(
            cfg,
            model=adapter_parity.adapted(path, start, cfg),
            place=Rank(
                rank=rank,
                world_size=world_size,
                master_address="127.0.0.1",
                master_port=next(ports),
            ),
            seed=0,
        )
        ours = adapter_parity.updated(built, packed.batches[rank], PolicyRole.objective)
        if kind == "adalora":
            everywhere = adapter_parity.ranks_everywhere(built)
            assert all(each == everywhere[0] for each in everywhere), everywhere
            assert set(everywhere[0].values()) - {4}, "no rank was taken away"
        built.close()
        if rank == 0:
            found[f"{kind}, stage {stage}"] = adapter_parity.difference(ours, expected[kind])
    return found


def main() -> None:
    name, path, rank, world_size, ports, result, control = sys.argv[1:]
    role, rank, world_size = ROLES[name], int(rank), int(world_size)
    available = iter(json.loads(Path(ports).read_text()))
    if control == "no_boundary":
        DeepSpeedEngine.set_gradient_accumulation_boundary = lambda self, is_boundary: None
    if control == "no_exchange":
        sequence_parallel._Exchanged.apply = lambda rows, group: rows
    sharing = 2 if control in ("divided", "divided twice", "no_exchange") else 1
    found, expected = {}, {}
    for stage, count in CASES[control]:
        groups, advantages = role.groups()
        packed = pack_into(
            groups, advantages, num_ranks=world_size // sharing, num_micro_batches=count
        )
        batches = [[with_returns(b) for b in rank_batches] for rank_batches in packed.batches]
        place = Rank(
            rank=rank,
            world_size=world_size,
            master_address="127.0.0.1",
            master_port=next(available),
        )
        cfg = TrainerConfig(
            dtype=DType.float32,
            threads=1,
            zero_stage=stage,
            num_ranks=world_size,
            logprob_chunk=8,  # ranks have different numbers of chunks
            sequence_parallel_size=sharing,
        )
        built = DeepSpeedTrainer(cfg, model=role.model(path, cfg), place=place, seed=0)
        mine = batches[rank // sharing]
        if control == "local_mean":
            mine = [locally_weighted(batch) for batch in mine]
        built.sleep()  # and wakes: every case is computed by a model that was away
        built.forward_backward(mine, role.objective)
        ours = engine_gradient(role.parameters(built.module), plain=stage == 0)
        built.close()
        if rank == 0:
            if count not in expected:  # a critic's returns depend on the split
                expected[count] = reference_gradient(role, path, groups, advantages, batches)
            case = f"stage {stage}, {count} micro-batches"
            found[case] = relative_difference(ours, expected[count])
    if role is PolicyRole and control == "none":
        found |= adapter_differences(path, rank, world_size, available, Path(result).parent)
    if rank == 0:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
