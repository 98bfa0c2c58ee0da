"""One rank of tests/system/test_preference_parity.py: all cases in one process.

    python preference_parity_rank.py MODEL REFERENCE RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

A case is a ZeRO stage, a loss and how a batch is split. Engines are built once for each stage; the
learning rate is so small that no update changes a weight, so every case begins at the same ones.
CONTROL: none | local mean (of the NLL part, at stage 2) | divided (all ranks share each
micro-batch; a case of each kind of columns at stage 2).
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from packed_groups import with_columns
from plain_preference import LOSSES, NLL_WEIGHT, rows
from transformers import AutoTokenizer

from rlpost.algorithms.diagnostics import merge
from rlpost.algorithms.preference import PreferenceObjective, preference_losses
from rlpost.data.conversation.preferences import JudgedEncoder, PairEncoder
from rlpost.data.example import Example
from rlpost.data.records import Judged, Pair
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.stages.preference.mismatched import Mismatched
from rlpost.stages.preference.models import ModelColumns
from rlpost.stages.preference.reference import LiveReference
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.scorer import FrozenScorer
from rlpost.training.packing.pack import Packed
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank

# Of one rank and of two; parity_rank.py has every stage, and no stage knows what a batch holds.
STAGES = {1: (0,), 2: (2, 3)}
NUM_ROWS = 8
NOTHING = 1e-30  # a rate that changes no float32 weight
WHOLE = 4000  # tokens of a micro-batch that all rows of a step fit into


@dataclass(frozen=True, kw_only=True)
class Case:
    """A loss, and how its batch is split."""

    loss: str
    max_tokens: int = WHOLE
    fill: bool = True
    share_prompts: bool = True

    def __str__(self) -> str:
        split = f"{self.max_tokens} tokens" if self.fill else "not packed"
        return ", ".join([self.loss, split, *([] if self.share_prompts else ["prompts twice"])])


SPLITS = (
    {},
    {"max_tokens": 500},
    {"max_tokens": 250},
    {"fill": False},
    {"share_prompts": False, "max_tokens": 500},
)
# Every loss in two ways at every stage; the three kinds of columns in all of them.
CASES = [
    *(Case(loss=loss, **SPLITS[n % 2 * 2]) for n, loss in enumerate(LOSSES)),
    *(Case(loss=loss, **SPLITS[1 + n % 2 * 2]) for n, loss in enumerate(LOSSES)),
    *(Case(loss=loss, **split) for loss in ("dpo", "orpo", "kto") for split in SPLITS),
]


def encoded(tokenizer, *, judged: bool) -> list[list[Example]]:
    """The examples of each row, with the uids that a mixture gives."""
    found = []
    for number, row in enumerate(rows(NUM_ROWS)):
        record = Pair(
            prompt=row.prompt, chosen=row.chosen, rejected=row.rejected, address=f"rows:{number}"
        )
        encoder = PairEncoder(tokenizer)
        if judged:
            encoder = JudgedEncoder(tokenizer)
            record = Judged(
                prompt=row.prompt,
                completion=row.judged,
                label=row.is_good,
                address=f"rows:{number}",
            )
        found.append([replace(e, uid=f"rows:0:{number}") for e in encoder.encode(record)])
    return found


class Engine:
    """A trainer's rank and the reference, asked as the driver asks them."""

    def __init__(self, trainer: DeepSpeedTrainer, reference: FrozenScorer, place: Rank) -> None:
        self.trainer, self.reference, self.place = trainer, reference, place
        self.sharing = trainer.cfg.sequence_parallel_size
        self.part = place.rank // self.sharing  # of a packed batch

    async def score(self, packed) -> list:
        """Every rank scores its own, and gets the answers of all."""
        return self._gathered(self.trainer.score(packed.batches[self.part]))

    async def ask_reference(self, packed) -> list:
        return [self.reference.score(mine, 1.0) for mine in packed.batches]

    def _gathered(self, mine) -> list:
        answers = [None] * self.place.world_size
        torch.distributed.all_gather_object(answers, mine)
        return answers[:: self.sharing]

    def measured(self, packed: Packed, objective: PreferenceObjective) -> dict[str, float]:
        tally = self.trainer.forward_backward(packed.batches[self.part], objective)
        return merge(self._gathered(tally)).metrics()

    def gradient(self, stage: int) -> dict[str, torch.Tensor]:
        """The accumulated gradient (collective)."""
        from deepspeed.utils import safe_get_full_grad

        return {
            name: (p.grad if stage == 0 else safe_get_full_grad(p)).detach().float().clone()
            for name, p in self.trainer.module.model.named_parameters()
        }


def batch_of(
    engine: Engine, case: Case, tokenizer, *, of_policy: bool = False
) -> tuple[Packed, PreferenceObjective]:
    """``of_policy``: the reference is the policy itself, as before the first step of a run."""
    ask = engine.score if of_policy else engine.ask_reference
    config = preference_losses.get(case.loss).config()
    judged = case.loss == "kto"
    examples = encoded(tokenizer, judged=judged)
    packer = ResponsePacker(
        num_ranks=engine.trainer.cfg.data_ranks,
        max_tokens=case.max_tokens,
        judged=judged,
        trains_chosen=config.nll_weight > 0,
        fill=case.fill,
        share_prompts=case.share_prompts,
    )

    def wrong(flat: Sequence[Example]) -> list[list[Example]]:
        partner = Mismatched(lambda row: examples[row], num_rows=NUM_ROWS, max_tokens=512)
        return [partner(row) for row in range(NUM_ROWS)]

    models = ModelColumns(
        reference=LiveReference(score=ask) if config.needs_reference else None,
        mismatched=wrong if config.needs_kl else None,
        score=engine.score,
        packer=packer,
    )
    flat = [each for row in examples for each in row]

    async def complete() -> Packed:
        kl = await models.reference_point(flat)
        return await models.attach(packer(flat), flat, kl=kl)

    return asyncio.run(complete()), PreferenceObjective(loss=config, metrics="preference")


def local_mean(packed: Packed) -> Packed:
    """What is wrong where each micro-batch takes the mean of its own tokens."""

    def one(batch):
        chosen_R = batch.columns["weight_R"] > 0
        count = max(1, int(chosen_R.sum()))
        return with_columns(batch, weight_R=(chosen_R / count).astype(np.float32))

    return Packed(batches=[[one(batch) for batch in mine] for mine in packed.batches])


def main() -> None:
    path, reference_path, rank, world_size, ports, result, control = sys.argv[1:]
    rank, world_size = int(rank), int(world_size)
    available = iter(json.loads(Path(ports).read_text()))
    stages, cases = STAGES[world_size], CASES
    if control == "local mean":
        stages, cases = (2,), [Case(loss=loss, max_tokens=250) for loss in NLL_WEIGHT]
    if control == "divided":
        stages, cases = (2,), [Case(loss=loss, max_tokens=500) for loss in ("dpo", "orpo", "kto")]
    tokenizer = AutoTokenizer.from_pretrained(path)
    found, begun = {}, {}
    for stage in stages:
        place = Rank(
            rank=rank, world_size=world_size, master_address="127.0.0.1",
            master_port=next(available),
        )  # fmt: skip
        cfg = TrainerConfig(
            dtype=DType.float32, threads=1, num_ranks=world_size, zero_stage=stage, lr=NOTHING,
            sequence_parallel_size=world_size if control == "divided" else 1,
            steps=len(cases) + len(LOSSES), warmup_steps=0,
        )  # fmt: skip
        model = TrainedModel.policy(path, cfg, metrics="preference")
        trainer = DeepSpeedTrainer(cfg, model=model, place=place, seed=0)
        reference = FrozenScorer(cfg, model=replace(model, path=reference_path))
        engine = Engine(trainer, reference, place)
        for number, case in enumerate(cases, start=1):
            packed, objective = batch_of(engine, case, tokenizer)
            if control == "local mean":
                packed = local_mean(packed)
            loss = engine.measured(packed, objective)["preference/loss"]
            gradient = engine.gradient(stage)
            trainer.optim_step(number)
            name = f"stage {stage}, {case}"
            if rank == 0 and name not in found:
                file = f"{len(found)}.pt"
                torch.save(gradient, Path(result).with_name(file))
                found[name] = {
                    "loss": loss, "gradient": file, "num_micro_batches": len(packed.batches[0]),
                }  # fmt: skip
        if control == "none" and stage == stages[0]:
            for number, loss in enumerate(LOSSES, start=len(cases) + 1):
                packed, objective = batch_of(engine, Case(loss=loss), tokenizer, of_policy=True)
                begun[loss] = engine.measured(packed, objective)
                trainer.optim_step(number)
        trainer.close()
    if rank == 0:
        Path(result).write_text(json.dumps({"cases": found, "begun": begun}))


if __name__ == "__main__":
    main()
