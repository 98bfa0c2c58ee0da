"""One rank of tests/system/test_optimizer_parity.py: every optimizer in one process.

    python optimizer_rank.py MODEL DTYPE DIRECTORY RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

Each kind makes ten updates, of two micro-batches and clipped, beside its reference, which gets the
same gradients; what it is after five is saved, and loaded into another engine where there is one
rank. CONTROL: none | unclipped (the reference does not clip) | counted (the update of zeros, with
which DeepSpeed begins in bfloat16, is not forgotten).
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import torch
from packed_groups import pack_into, random_groups
from plain_optimizers import GAP, RANK, SCALE, SETTINGS, plain

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.training.model.loading import TrainedModel
from rlpost.training.optimizers import optimizers
from rlpost.training.optimizers.per_tensor import PerTensor
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero.deepspeed_state import engine_state
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())
LR, CLIP, UPDATES, SAVED = 1e-3, 0.5, 10, 5
KINDS = {
    "none": [entry.name for entry in optimizers],
    "unclipped": ["muon"],
    "counted": ["adam_mini"],
}


class NeverCleared(defaultdict):
    """A state that begins with the update of zeros."""

    def clear(self) -> None:
        """Keep what is there."""


class Trained:
    """A tiny policy whose updates one kind makes."""

    def __init__(self, kind: str, *, path: str, dtype: str, place: Rank) -> None:
        cfg = TrainerConfig(
            dtype=DType(dtype),
            threads=1,
            zero_stage=0,
            num_ranks=place.world_size,
            lr=LR,
            max_grad_norm=CLIP,
            **SETTINGS,
        )
        options = {"rank": RANK, "gap": GAP, "scale": SCALE} if kind == "galore" else {}
        optimizer = optimizers.get(kind).config(**options)
        self.place, self.cfg = place, cfg
        model = TrainedModel.policy(path, cfg)
        self.role = DeepSpeedTrainer(cfg, model=model, place=place, seed=0, optimizer=optimizer)

    def masters(self) -> dict[str, torch.Tensor]:
        state = engine_state(self.role.engine, self.role._optimizer)
        return {n: slot.flat.detach().clone() for n, slot in state.slots.items()}

    def backward(self, step: int) -> dict[str, torch.Tensor]:
        """Accumulate; returns the gradient, averaged over ranks and not clipped."""
        packed = pack_into(
            *random_groups(seed=step), num_ranks=self.place.world_size, num_micro_batches=2
        )
        self.role.forward_backward(packed.batches[self.place.rank], OBJECTIVE)
        named = self.role.module.named_parameters()
        return {name: p.grad.detach().float().clone() for name, p in named}

    def train(self, steps: range) -> None:
        for step in steps:
            self.backward(step)
            self.role.optim_step(step)


def compare(trained: Trained, kind: str, directory: Path, *, clipped: bool) -> dict[str, float]:
    """Make ten updates beside the reference; saves what is after five."""
    expected, reference = trained.masters(), plain(kind)
    start = trained.masters()
    for step in range(1, UPDATES + 1):
        gradients = trained.backward(step)
        metrics = trained.role.optim_step(step)
        norm = metrics["actor/grad_norm"]
        assert norm > CLIP
        factor = CLIP / norm if clipped else 1.0
        reference.update(expected, {n: g * factor for n, g in gradients.items()}, LR)
        if step == SAVED:
            trained.role.begin_save(directory)
            trained.role.finish_save()
    found = trained.masters()
    changes = torch.cat([(found[n] - w).abs().flatten() for n, w in expected.items()])
    moved = torch.cat([(found[n] - w).abs().flatten() for n, w in start.items()])
    return {
        "largest": changes.max().item(),
        "mean": changes.mean().item(),
        "moved": moved.mean().item(),
        "state_gb": metrics["perf/optimizer_state_gb"],
        "updates": engine_state(trained.role.engine, trained.role._optimizer).count(),
    }


def main() -> None:
    path, dtype, directory, rank, world_size, ports, result, control = sys.argv[1:]
    rank, world_size = int(rank), int(world_size)
    available = iter(json.loads(Path(ports).read_text()))
    if control == "counted":
        plain_init = PerTensor.__init__

        def init(self, *args, **kwargs):
            plain_init(self, *args, **kwargs)
            self.state = NeverCleared(dict)

        PerTensor.__init__ = init

    def build(kind: str) -> Trained:
        port = next(available)
        place = Rank(rank=rank, world_size=world_size, master_address="127.0.0.1", master_port=port)
        return Trained(kind, path=path, dtype=dtype, place=place)

    found = {}
    for kind in KINDS[control]:
        trained = build(kind)
        saved = Path(directory) / kind
        found[kind] = compare(trained, kind, saved, clipped=control != "unclipped")
        whole = trained.masters()
        trained.role.close()
        if world_size == 1 and control == "none":
            again = build(kind)
            again.role.load(saved)
            again.train(range(SAVED + 1, UPDATES + 1))
            masters = again.masters()
            found[kind]["resumed"] = all(torch.equal(masters[n], w) for n, w in whole.items())
            again.role.close()
    if rank == 0:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
