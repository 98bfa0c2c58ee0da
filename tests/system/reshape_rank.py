"""One rank of tests/system/test_checkpoint_reshape.py: every case in one process.

    python reshape_rank.py PLAN.json RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

PLAN.json: ``{"models": {role: path}, "write": [[directory, shape]..], "load": [[directory,
source shape, target shape, control]..]}``; a shape has role, ranks, stage, dtype and steps.
What is written is trained for ``steps`` and saved; beside it is noted what the state was and
what the next step did. What is loaded answers how it differs from that. A control makes the
loader wrong: none | forget (one moment is zero) | stale (compute weights are not refreshed).
CONTROL of the whole process is not used.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Shape

import numpy as np
import torch
from packed_groups import pack_into, random_groups, relative_difference, with_columns
from torch import nn

from rlpost.algorithms.critic_loss import CriticLossConfig, CriticObjective
from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.training.model import classifier_heads
from rlpost.training.model.loading import TrainedModel
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero import deepspeed_checkpoint, deepspeed_saver
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank
from rlpost.training.zero.deepspeed_weights import iter_weights

OBJECTIVES = {
    "policy": PolicyObjective(loss=ReinforceConfig(), kl=KLConfig()),
    "critic": CriticObjective(loss=CriticLossConfig(clip=None)),
}
MOMENTS = ("exp_avg", "exp_avg_sq")


class BiasedHead(nn.Module):
    """A value head with a parameter of one element, which two ranks cannot share evenly."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.bias = nn.Parameter(torch.zeros(1, dtype=head.weight.dtype))

    def forward(self, hidden_RE):
        return self.head(hidden_RE) + self.bias.float()


class Trained:
    """A policy or a critic at one shape."""

    def __init__(self, shape: Shape, *, path: str, place: Rank) -> None:
        cfg = TrainerConfig(
            dtype=DType(shape.dtype),
            threads=1,
            zero_stage=shape.stage,
            num_ranks=shape.ranks,
            lr=1e-3,
            weight_decay=0.1,
        )
        self.shape, self.place = shape, place
        if shape.role == "policy":
            model = TrainedModel.policy(path, cfg)
        else:
            model = TrainedModel.critic(path, policy_path=path)
        self.role = DeepSpeedTrainer(cfg, model=model, place=place, seed=0)
        self.stage_0 = shape.stage == 0

    def backward(self, step: int) -> None:
        packed = pack_into(
            *random_groups(seed=step), num_ranks=self.shape.ranks, num_micro_batches=1
        )
        (batch,) = packed.batches[self.place.rank]
        # Returns that depend on the token alone, so that they are the same for any ranks.
        returns_R = np.cos(batch.target_R).astype(np.float32)
        zeros_R = np.zeros_like(returns_R)
        mine = [with_columns(batch, returns_R=returns_R, rollout_values_R=zeros_R)]
        self.role.forward_backward(mine, OBJECTIVES[self.shape.role])

    def step(self, step: int) -> dict[str, torch.Tensor]:
        """Do one whole step; returns its gradient (collective)."""
        from deepspeed.utils import safe_get_full_grad

        self.backward(step)
        gradient = {
            name: (p.grad if self.stage_0 else safe_get_full_grad(p)).detach().float().clone()
            for name, p in self.role.module.named_parameters()
        }
        self.role.optim_step(step)
        return gradient

    def state(self) -> dict[str, torch.Tensor]:
        """Masters and moments as DeepSpeed itself tells them (collective)."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        optimizer = self.role.engine.optimizer
        adam = self.role.engine.basic_optimizer.state
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state") and adam:
            optimizer._lazy_init_hp_params_optimizer_state()
        masters = {}
        if hasattr(optimizer, "fp32_groups"):
            masters = dict(zip(optimizer.fp16_groups[0], optimizer.fp32_groups[0], strict=True))
        found = {}
        for name, p in self.role.module.named_parameters():
            master = masters.get(p, p)
            found[name] = (master if self.stage_0 else safe_get_full_fp32_param(p)).detach().clone()
            for kind in MOMENTS if adam else ():
                moment = (
                    adam[master][kind] if self.stage_0 else safe_get_full_optimizer_state(p, kind)
                )
                found[f"{name}/{kind}"] = moment.detach().clone()
        return found

    def weights(self) -> dict[str, torch.Tensor]:
        return {n: t.float().clone() for n, t in iter_weights(self.role.module)}


def write(shape: Shape, trained: Trained, directory: Path) -> None:
    """Train, save, and note what comes of the next step."""
    for step in range(1, shape.steps + 1):
        trained.step(step)
    trained.role.begin_save(directory / "state")
    before = trained.state()
    gradient = trained.step(shape.steps + 1)  # while the files are being written
    noted = {"state": before, "gradient": gradient, "after": trained.state()}
    trained.role.finish_save()
    if trained.place.rank == 0:
        torch.save(noted, directory / "noted.pt")


def load(source: Shape, trained: Trained, directory: Path) -> dict[str, float]:
    """Load what ``write`` left and go one step further."""
    noted = torch.load(directory / "noted.pt")
    trained.role.load(directory / "state")
    state, weights = trained.state(), trained.weights()
    dtype = trained.role.dtype
    result = {
        "differing": sum(
            not torch.equal(state.get(n, torch.zeros_like(t)), t) for n, t in noted["state"].items()
        ),
        "stale": sum(not torch.equal(state[n].to(dtype).float(), t) for n, t in weights.items()),
    }
    gradient = trained.step(source.steps + 1)
    result["gradient"] = relative_difference(gradient, noted["gradient"])
    after, expected = trained.state(), noted["after"]
    names = gradient.keys()
    result["after"] = relative_difference(
        {n: after[n] - state[n] for n in names},
        {n: expected[n] - noted["state"][n] for n in names},
    )
    result["after_equal"] = all(torch.equal(after[n], expected[n]) for n in expected)
    return result


@contextmanager
def sabotaged(control: str) -> Iterator[None]:
    """Make the loader wrong in one way."""
    read, find = deepspeed_checkpoint.Shards.read, deepspeed_saver.engine_state

    def forgetful(self, name, part):
        part = read(self, name, part)
        return torch.zeros_like(part) if name.endswith("exp_avg_sq") else part

    if control == "forget":
        deepspeed_checkpoint.Shards.read = forgetful
    if control == "stale":
        deepspeed_saver.engine_state = lambda *of: replace(find(*of), refresh=lambda: None)
    yield
    deepspeed_checkpoint.Shards.read, deepspeed_saver.engine_state = read, find


def main() -> None:
    plan, rank, world_size, ports, result, _ = sys.argv[1:]
    plan, rank, world_size = json.loads(Path(plan).read_text()), int(rank), int(world_size)
    available = iter(json.loads(Path(ports).read_text()))
    plain_load = classifier_heads.ClassifierHead.load

    def load_biased(*args, **kwargs):
        critic = plain_load(*args, **kwargs)
        critic.score = BiasedHead(critic.score)
        return critic

    classifier_heads.ClassifierHead.load = load_biased

    def build(shape: Shape) -> Trained:
        assert shape.ranks == world_size
        place = Rank(
            rank=rank,
            world_size=world_size,
            master_address="127.0.0.1",
            master_port=next(available),
        )
        return Trained(shape, path=plan["models"][shape.role], place=place)

    found = []
    for directory, options in plan["write"]:
        Path(directory).mkdir(exist_ok=True)
        trained = build(Shape(**options))
        write(Shape(**options), trained, Path(directory))
        trained.role.close()
    for directory, source, target, control in plan["load"]:
        trained = build(Shape(**target))
        with sabotaged(control):
            found.append(load(Shape(**source), trained, Path(directory)))
        trained.role.close()
    if rank == 0:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
