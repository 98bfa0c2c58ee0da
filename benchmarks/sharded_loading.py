"""Peak memory of two ranks that load one model under ZeRO-3: in parts, and each of them all of it.

    .venv/bin/python benchmarks/sharded_loading.py --gb 2
    .venv/bin/python benchmarks/sharded_loading.py --gb 2 --adapter

A random Llama in bfloat16 of so many gigabytes is built first. ``--adapter`` trains LoRA on it in
place of every weight. What is printed is the anonymous
memory of each rank above that before loading, sampled every 5 ms: until the weights are divided,
and until the engine stands with its masters. Pages of the mapped files are not counted: ranks share
them, and the kernel takes them back when memory is short. ``resident`` is the kernel's own
high-water mark, with those pages.
"""

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

RANKS = 2
GB = 1e9


def build(directory: Path, *, gb: float) -> int:
    """Write the model; returns its bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlpost.models.tiny import byte_tokenizer

    width, vocabulary = 2048, 32768
    layer = 4 * width * width + 3 * width * 4 * width
    layers = max(1, round((gb * GB / 2 - vocabulary * width) / layer))
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
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory, max_shard_size="500MB")
    byte_tokenizer().save_pretrained(directory)
    return sum(parameter.nbytes for parameter in model.parameters())


def memory(field: str) -> float:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024 / GB


class Peak:
    """The highest anonymous memory since it was made."""

    def __init__(self) -> None:
        self._start, self.value = memory("RssAnon"), 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.value = max(self.value, memory("RssAnon") - self._start)
            time.sleep(0.005)


def rank(number: int, path: str, port: int, whole: bool, adapted: bool, answers: Any) -> None:
    """Load, and tell the peaks in GB."""
    from deepspeed.runtime.zero import parameter_offload

    from rlpost.models.directory.model_directory import ModelDirectory
    from rlpost.training.adapters.lora import LoRAConfig
    from rlpost.training.adapters.planning import plan_adaptation
    from rlpost.training.model.loading import TrainedModel
    from rlpost.training.settings import DType, TrainerConfig
    from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank

    if whole:
        TrainedModel.load_hollow = lambda self, **options: None
    peaks: dict[str, float] = {}
    divide = parameter_offload.DeepSpeedZeRoOffload.__init__

    def divided(self: Any, *args: Any, **options: Any) -> None:
        divide(self, *args, **options)
        peaks["until divided"] = peak.value

    parameter_offload.DeepSpeedZeRoOffload.__init__ = divided
    cfg = TrainerConfig(zero_stage=3, num_ranks=RANKS, dtype=DType.bfloat16, threads=1)
    adapter = None
    if adapted:
        base = ModelDirectory.read(Path(path))
        adapter = plan_adaptation(LoRAConfig(), start=None, base=base, name=path)
    model = TrainedModel.policy(path, cfg, adapter=adapter)
    before, peak = memory("VmRSS"), Peak()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    place = Rank(rank=number, world_size=RANKS, master_address="127.0.0.1", master_port=port)
    trainer = DeepSpeedTrainer(cfg, model=model, place=place, seed=0)
    peaks["until set up"] = peak.value
    peaks["resident"] = memory("VmHWM") - before
    answers.put((number, peaks))
    trainer.close()


def measure(path: str, *, whole: bool, adapted: bool) -> dict[str, float]:
    """Return the larger peak of the ranks, by phase."""
    from rlpost.network import free_port

    context, port = multiprocessing.get_context("spawn"), free_port()
    answers = context.Queue()
    ranks = [
        context.Process(target=rank, args=(number, path, port, whole, adapted, answers))
        for number in range(RANKS)
    ]
    for process in ranks:
        process.start()
    found = [answers.get(timeout=1200)[1] for _ in ranks]
    for process in ranks:
        process.join()
    return {phase: max(peaks[phase] for peaks in found) for phase in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gb", type=float, default=2.0, help="size of the model's weights")
    parser.add_argument("--adapter", action="store_true", help="train LoRA on the model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:  # a process of its own gives its memory back
            size = pool.apply(build, (Path(directory),), {"gb": args.gb})
        print(f"model: {size / GB:.2f} GB, {RANKS} ranks")
        parts, whole = (
            measure(directory, whole=whole, adapted=args.adapter) for whole in (False, True)
        )
    for phase, peak in whole.items():
        share = parts[phase] / peak
        print(f"{phase}: in parts {parts[phase]:.2f} GB, whole {peak:.2f} GB, share {share:.2f}")
    print(json.dumps({"model_gb": size / GB, "in_parts": parts, "whole": whole}))


if __name__ == "__main__":
    main()
