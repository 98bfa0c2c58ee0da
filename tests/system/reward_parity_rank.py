"""One rank of tests/system/test_reward_parity.py: all cases in one process.

    python reward_parity_rank.py PAIRS STEPS RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

A case is a ZeRO stage, what is judged, and how a batch is split. Engines are built once for each
stage and kind; every case begins at the state that the engine had when it was built.
CONTROL: none | local (a mean over each micro-batch, at stage 2).
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from packed_groups import with_columns
from plain_reward import pair_rows, step_rows
from transformers import AutoTokenizer

from rlpost.algorithms.diagnostics import merge
from rlpost.algorithms.reward import BradleyTerryConfig, RewardObjective, StepObjective
from rlpost.data.conversation.preferences import PairEncoder
from rlpost.data.conversation.steps import StepwiseEncoder
from rlpost.data.records import Pair, Stepwise
from rlpost.stages.reward.batch import PairPacker, StepPacker
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.training.model.classifier_heads import SCORE_HEAD, STEP_HEAD
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.pack import Packed
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank

ROWS = 8
# Of one rank and of two; parity_rank.py has every stage, and no stage knows what a batch holds.
STAGES = {1: (0,), 2: (2, 3)}
LOSS = BradleyTerryConfig(centre=0.05, margin_column="margin")


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a batch is split."""

    max_tokens: int = 4000  # of a micro-batch; all rows fit
    fill: bool = True

    def __str__(self) -> str:
        return f"{self.max_tokens} tokens" if self.fill else "not packed"


CASES = [Case(), Case(max_tokens=320), Case(max_tokens=180), Case(fill=False)]


def pairs_packed(tokenizer, case: Case, *, num_ranks: int) -> Packed:
    encoder = PairEncoder(tokenizer, margin_column="margin")
    examples = []
    for row in pair_rows(ROWS):
        record = Pair(
            prompt=row["prompt"], chosen=row["chosen"], rejected=row["rejected"],
            columns={"margin": row["margin"]}, address="rows",
        )  # fmt: skip
        examples += encoder.encode(record)
    packer = PairPacker(
        num_ranks=num_ranks, max_tokens=case.max_tokens, fill=case.fill, has_margins=True
    )
    return packer(examples)


def steps_packed(tokenizer, case: Case, *, num_ranks: int) -> Packed:
    encoder = StepwiseEncoder(tokenizer)
    examples = []
    for row in step_rows(ROWS):
        record = Stepwise(
            prompt=row["prompt"], completions=tuple(row["completions"]),
            labels=tuple(map(float, row["labels"])), address="rows",
        )  # fmt: skip
        examples += encoder.encode(record)
    packer = ExamplePacker(num_ranks=num_ranks, max_tokens=case.max_tokens, fill=case.fill)
    return StepPacker(examples=packer)(examples)


KINDS = {
    "pairs": (SCORE_HEAD, RewardObjective(loss=LOSS), pairs_packed, "weight_U"),
    "steps": (STEP_HEAD, StepObjective(), steps_packed, "weight_R"),
}


def locally(packed: Packed, weight: str) -> Packed:
    """Weigh as a mean over each micro-batch, which is wrong."""

    def one(batch):
        column = np.full_like(batch.columns[weight], 1 / len(batch.columns[weight]))
        return with_columns(batch, **{weight: column})

    return Packed(batches=[[one(batch) for batch in mine] for mine in packed.batches])


def gradient(trainer: DeepSpeedTrainer, stage: int) -> dict[str, torch.Tensor]:
    """The accumulated gradient (collective), by transformers' names."""
    from deepspeed.utils import safe_get_full_grad

    return {
        name: (p.grad if stage == 0 else safe_get_full_grad(p)).detach().float().clone()
        for name, p in trainer.module.named_parameters()
    }


def main() -> None:
    *paths, rank, world_size, ports, result, control = sys.argv[1:]
    rank, world_size = int(rank), int(world_size)
    available = iter(json.loads(Path(ports).read_text()))
    found = {}
    for kind, path in zip(KINDS, paths, strict=True):
        head, objective, pack_rows, weight = KINDS[kind]
        for stage in (2,) if control == "local" else STAGES[world_size]:
            place = Rank(
                rank=rank, world_size=world_size, master_address="127.0.0.1",
                master_port=next(available),
            )  # fmt: skip
            cfg = TrainerConfig(
                dtype=DType.float32, threads=1, num_ranks=world_size, zero_stage=stage
            )
            model = TrainedModel.reward(path, head=head, metrics="reward")
            trainer = DeepSpeedTrainer(cfg, model=model, place=place, seed=0)
            origin = Path(result).with_name(f"origin-{kind}{stage}")
            origin.mkdir(exist_ok=True)
            trainer.begin_save(origin)
            trainer.finish_save()
            torch.distributed.barrier()
            tokenizer = AutoTokenizer.from_pretrained(path)
            for case in CASES:
                trainer.load(origin)
                packed = pack_rows(tokenizer, case, num_ranks=world_size)
                if control == "local":
                    packed = locally(packed, weight)
                tally = trainer.forward_backward(packed.batches[rank], objective)
                tallies = [None] * world_size
                torch.distributed.all_gather_object(tallies, tally)
                file = Path(result).with_name(f"{len(found)}.pt")
                gradients = gradient(trainer, stage)
                if rank == 0:
                    torch.save(gradients, file)
                found[f"{kind}, stage {stage}, {case}"] = {
                    "loss": merge(tallies).metrics()["reward/loss"],
                    "num_micro_batches": len(packed.batches[rank]),
                    "gradient": file.name,
                }
                trainer.optim_step(1)
            trainer.close()
    if rank == 0:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
