"""One rank of tests/system/test_distill_parity.py: all cases in one process.

    python distill_parity_rank.py STUDENT TEACHER RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

A case is a ZeRO stage, a divergence and how a batch is split. CONTROL: none, or beta, which trains
with another divergence than the case says.
"""

import json
import sys
from pathlib import Path

import torch
from plain_sft import Settings, batches
from sft_parity_rank import Case, encoded, gradient, packed
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlpost.algorithms.distill import DistillObjective, DivergenceConfig
from rlpost.algorithms.distill.top_tokens import IDS, LOGS
from rlpost.config.schema import ModelConfig
from rlpost.stages.distill.teacher import Teacher
from rlpost.stages.distill.teacher_settings import TeacherConfig
from rlpost.stages.policy import check_policy
from rlpost.training.adapters.config import NoAdapterConfig
from rlpost.training.settings import DType, LRSchedule, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank

# Of one rank and of two, which divide the teacher also beside a student that is whole.
STAGES = {1: (0,), 2: (0, 3)}
SETTINGS = Settings()
# Beta, temperature, and how many tokens of the teacher are stored; None: it is in the rank.
DIVERGENCES = ((0.0, 1.0, None), (0.5, 2.0, None), (1.0, 1.0, None), (0.5, 2.0, 8))
SPLITS = (4000, 300)  # tokens of a micro-batch


@torch.no_grad()
def stored(teacher, examples, top_k: int, temperature: float) -> dict[str, dict]:
    """Return the columns that a stored teacher brings, of ``top_k`` of 259 tokens."""
    columns = {IDS: {}, LOGS: {}}
    for place, each in enumerate(examples):
        ids_1T = torch.tensor(each.ids[None].astype("int64"))
        probs_NV = teacher(input_ids=ids_1T).logits[0, :-1, :259].div(temperature).softmax(-1)
        kept = probs_NV[torch.from_numpy(each.trained[1:])].topk(top_k)
        rest_N1 = 1 - kept.values.sum(1, keepdim=True)
        columns[IDS][place] = kept.indices.numpy()
        columns[LOGS][place] = torch.cat([kept.values, rest_N1], 1).log().numpy()
    return columns


def main() -> None:
    from rlpost.algorithms.diagnostics import merge

    path, teacher_path, rank, world_size, ports, result, control = sys.argv[1:]
    rank, world_size = int(rank), int(world_size)
    available = iter(json.loads(Path(ports).read_text()))
    student = check_policy(ModelConfig(path=path), NoAdapterConfig(), template_variables={})
    tokenizer = AutoTokenizer.from_pretrained(path)
    plain = AutoModelForCausalLM.from_pretrained(teacher_path, dtype=torch.float32)
    found = {}
    for stage in STAGES[world_size]:
        cfg = TrainerConfig(
            dtype=DType.float32, threads=1, num_ranks=world_size, zero_stage=stage, lr=SETTINGS.lr,
            steps=SETTINGS.steps, warmup_steps=SETTINGS.warmup_steps, logprob_chunk=64,
            lr_schedule=LRSchedule.cosine, max_grad_norm=SETTINGS.max_grad_norm,
            gradient_checkpointing=stage == 3,
        )  # fmt: skip
        place = Rank(
            rank=rank, world_size=world_size, master_address="127.0.0.1",
            master_port=next(available),
        )  # fmt: skip
        # Several ranks divide the teacher, whatever they divide of the student.
        teacher = TeacherConfig(path=teacher_path, zero_stage=3 if world_size > 1 else 0)
        teacher = Teacher.of(teacher, cfg, student=student)
        divergence = DivergenceConfig()
        model = teacher.beside(student, cfg, divergence)
        trainer = DeepSpeedTrainer(cfg, model=model, place=place, seed=0)
        origin = Path(result).with_name(f"origin{stage}")
        origin.mkdir(exist_ok=True)
        trainer.begin_save(origin)
        trainer.finish_save()
        torch.distributed.barrier()
        for beta, temperature, top_k in DIVERGENCES:
            divergence.beta = beta if control == "none" else (beta + 0.4) % 1
            divergence.temperature = temperature
            for tokens in SPLITS if control == "none" else SPLITS[:1]:
                trainer.load(origin)
                case = Case(train_on="assistant", max_tokens=tokens)
                curves = {"loss": [], "grad_norm": []}
                for step, rows in enumerate(batches(cfg.steps, examples=6), start=1):
                    examples = encoded(tokenizer, rows, case)
                    whole = packed(examples, case, num_ranks=world_size)
                    if top_k is not None:
                        whole = whole.attach(**stored(plain, examples, top_k, temperature))
                    tally = trainer.forward_backward(whole.batches[rank], DistillObjective())
                    tallies = [None] * world_size
                    torch.distributed.all_gather_object(tallies, tally)
                    first = gradient(trainer, stage) if step == 1 else None
                    if rank == 0 and first is not None:
                        torch.save(first, Path(result).with_name(f"{len(found)}.pt"))
                    curves["loss"].append(merge(tallies).metrics()["distill/loss"])
                    curves["grad_norm"].append(trainer.optim_step(step)["distill/grad_norm"])
                    if step == 2:
                        trainer.sleep()  # the teacher comes back with the student
                found[f"stage {stage}, {tokens} tokens, {beta}, {temperature}, {top_k}"] = {
                    **curves,
                    "gradient": f"{len(found)}.pt",
                    "beta": beta,
                    "temperature": temperature,
                    "top_k": top_k,
                }
        trainer.close()
    if rank == 0:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
