"""One rank of tests/system/test_sft_parity.py: all cases in one process.

    python sft_parity_rank.py MODEL RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

A case is a ZeRO stage, what is trained of a conversation, and how a batch is split. Engines are
built once for each stage; every case begins at the state that the engine had when it was built.
CONTROL: none | each (every control of ``CONTROLS``, at stage 2).
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from packed_groups import with_columns
from plain_sft import Settings, batches
from transformers import AutoTokenizer

from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.example import Example
from rlpost.data.records import Conversation
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.pack import Packed
from rlpost.training.settings import DType, LRSchedule, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank

# Of one rank and of two; parity_rank.py has every stage, and no stage knows what a batch holds.
STAGES = {1: (0,), 2: (2, 3)}
SETTINGS = Settings()
MASKS = ("assistant", "last", "all")
CONTROLS = ("local mean", "no end of turn", "everything trained")


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a run is split, and what is wrong with it."""

    train_on: str
    max_tokens: int = 4000  # of a micro-batch; all examples of a step fit
    fill: bool = True
    control: str = ""

    def __str__(self) -> str:
        split = f"{self.max_tokens} tokens" if self.fill else "not packed"
        return ", ".join(filter(None, [self.train_on, split, self.control]))


CASES = [
    *(Case(train_on=mask, max_tokens=tokens) for mask in MASKS for tokens in (4000, 300)),
    *(Case(train_on=mask, fill=False) for mask in MASKS),
]


def encoded(tokenizer, rows, case: Case) -> list[Example]:
    encoder = ConversationEncoder(tokenizer, train_on=case.train_on)
    found = []
    for number, messages in enumerate(rows):
        record = Conversation(messages=tuple(messages), address=f"rows:{number}")
        found += encoder.encode(record)
    if case.control == "no end of turn":
        end = tokenizer.eos_token_id
        found = [replace(each, trained=each.trained & (each.ids != end)) for each in found]
    if case.control == "everything trained":
        found = [replace(each, trained=np.arange(len(each)) > 0) for each in found]
    return found


def packed(examples: Sequence[Example], case: Case, *, num_ranks: int) -> Packed:
    packer = ExamplePacker(num_ranks=num_ranks, max_tokens=case.max_tokens, fill=case.fill)
    whole = packer(examples)
    if case.control != "local mean":
        return whole
    return Packed(
        batches=[
            [
                with_columns(
                    each, weight_R=np.full(len(each.target_R), 1 / len(each.target_R), np.float32)
                )
                for each in mine
            ]
            for mine in whole.batches
        ]
    )


def gradient(trainer: DeepSpeedTrainer, stage: int) -> dict[str, torch.Tensor]:
    """The accumulated gradient (collective)."""
    from deepspeed.utils import safe_get_full_grad

    return {
        name: (p.grad if stage == 0 else safe_get_full_grad(p)).detach().float().clone()
        for name, p in trainer.module.model.named_parameters()
    }


def main() -> None:
    from rlpost.algorithms.diagnostics import merge

    path, rank, world_size, ports, result, control = sys.argv[1:]
    rank, world_size = int(rank), int(world_size)
    available = iter(json.loads(Path(ports).read_text()))
    stages, cases = STAGES[world_size], CASES
    if control == "each":
        stages = (2,)
        cases = [Case(train_on="assistant", max_tokens=300, control=each) for each in CONTROLS]
    found = {}
    for stage in stages:
        place = Rank(
            rank=rank, world_size=world_size, master_address="127.0.0.1",
            master_port=next(available),
        )  # fmt: skip
        cfg = TrainerConfig(
            dtype=DType.float32, threads=1, num_ranks=world_size, zero_stage=stage, lr=SETTINGS.lr,
            steps=SETTINGS.steps, warmup_steps=SETTINGS.warmup_steps,
            lr_schedule=LRSchedule.cosine, max_grad_norm=SETTINGS.max_grad_norm,
        )  # fmt: skip
        model = TrainedModel.policy(path, cfg, metrics="sft")
        trainer = DeepSpeedTrainer(cfg, model=model, place=place, seed=0)
        origin = Path(result).with_name(f"origin{stage}")
        origin.mkdir(exist_ok=True)
        trainer.begin_save(origin)
        trainer.finish_save()
        torch.distributed.barrier()
        tokenizer = AutoTokenizer.from_pretrained(path)
        for case in cases:
            trainer.load(origin)
            curves = {"loss": [], "grad_norm": [], "num_micro_batches": []}
            for step, rows in enumerate(batches(cfg.steps, examples=6), start=1):
                examples = encoded(tokenizer, rows, case)
                mine = packed(examples, case, num_ranks=world_size).batches[rank]
                tally = trainer.forward_backward(mine, LikelihoodObjective(metrics="sft"))
                tallies = [None] * world_size
                torch.distributed.all_gather_object(tallies, tally)
                first = gradient(trainer, stage) if step == 1 else None
                if rank == 0 and first is not None:
                    file = Path(result).with_name(f"{len(found)}.pt")
                    torch.save(first, file)
                curves["loss"].append(merge(tallies).metrics()["sft/loss"])
                curves["grad_norm"].append(trainer.optim_step(step)["sft/grad_norm"])
                curves["num_micro_batches"].append(len(mine))
            found[f"stage {stage}, {case}"] = {**curves, "gradient": f"{len(found)}.pt"}
        trainer.close()
    if rank == 0:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
