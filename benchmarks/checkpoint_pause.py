"""How long training stops for a checkpoint: two ranks at ZeRO stages 2 and 3, per GB of state.

    .venv/bin/python benchmarks/checkpoint_pause.py --gb 1

A random Llama has masters and moments, 12 bytes a parameter, and is saved three times. What is
printed is the slower rank's best time of ``begin_save``, during which training stops, and of
``finish_save``, which waits for the files that are written behind it.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

RANKS, REPEATS = 2, 3
STATE_BYTES = 12  # a parameter: master and two moments
GB = 1e9


def build(directory: Path, *, gb: float) -> None:
    """Write a model whose state takes so many gigabytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlpost.models.tiny import byte_tokenizer

    width, vocabulary = 1024, 16384
    layer = 4 * width * width + 3 * width * 4 * width
    layers = max(1, round((gb * GB / STATE_BYTES - vocabulary * width) / layer))
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=16,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)


def rank(number: int, path: str, port: int, stage: int, answers: Any) -> None:
    """Save, and tell the times in seconds and the number of parameters."""
    from rlpost.training.model.loading import TrainedModel
    from rlpost.training.optimizers.adamw import AdamWConfig
    from rlpost.training.optimizers.build import kind_of
    from rlpost.training.settings import DType, TrainerConfig
    from rlpost.training.zero.deepspeed_state import engine_state
    from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank

    cfg = TrainerConfig(zero_stage=stage, num_ranks=RANKS, dtype=DType.bfloat16, threads=1)
    place = Rank(rank=number, world_size=RANKS, master_address="127.0.0.1", master_port=port)
    trainer = DeepSpeedTrainer(cfg, model=TrainedModel.policy(path, cfg), place=place, seed=0)
    engine_state(trainer.engine, kind_of(AdamWConfig(), cfg)).reset(1)  # moments, as after a step
    found = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(dir=path) as directory:
            torch.distributed.barrier()
            began = time.perf_counter()
            trainer.begin_save(Path(directory))
            copied = time.perf_counter()
            trainer.finish_save()
            found.append((copied - began, time.perf_counter() - copied))
    answers.put((number, trainer.num_parameters, found))
    trainer.close()


def measure(path: str, *, stage: int) -> dict[str, float]:
    """Return the best times of the slower rank, and the size of the state."""
    from rlpost.network import free_port

    context, port = multiprocessing.get_context("spawn"), free_port()
    answers = context.Queue()
    ranks = [
        context.Process(target=rank, args=(number, path, port, stage, answers))
        for number in range(RANKS)
    ]
    for process in ranks:
        process.start()
    found = [answers.get(timeout=1200) for _ in ranks]
    for process in ranks:
        process.join()
    times = [of_rank for _, _, of_rank in found]
    stops, writes = (
        min(max(of_rank[repeat][phase] for of_rank in times) for repeat in range(REPEATS))
        for phase in (0, 1)
    )
    return {"state_gb": found[0][1] * STATE_BYTES / GB, "stopped_s": stops, "written_s": writes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gb", type=float, default=1.0, help="size of the state in a checkpoint")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:  # a process of its own gives its memory back
            pool.apply(build, (Path(directory),), {"gb": args.gb})
        for stage in (2, 3):
            found = results[stage] = measure(directory, stage=stage)
            print(
                f"stage {stage}, {found['state_gb']:.2f} GB on {RANKS} ranks: training stops for "
                f"{found['stopped_s'] / found['state_gb']:.2f} s a GB, the files are there "
                f"{found['written_s'] / found['state_gb']:.2f} s a GB later",
                flush=True,
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
