"""What only a GPU shows of the trainer: `gpu_check.py`'s sections about streams and memory."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gpu_correctness import OBJECTIVE, batches, changed, trainer, weights
from gpu_section import CannotRun, Finding, Models
from gpu_speed import MIX
from trainer_throughput import Mix, Step, measure

from rlpost.training.settings import DType
from rlpost.training.zero import deepspeed_engine
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer
from rlpost.weights.manifest import copy_bytes
from rlpost.weights.transports.host_pages import HostPages, host_pages
from rlpost.weights.transports.shared_memory import shared_memory_directory

BYTES, TINY_BYTES = 4 << 30, 4 << 20


def require_cuda(what: str) -> None:
    if not torch.cuda.is_available():
        raise CannotRun(f"{what} exists on a GPU only")


@contextmanager
def counted_synchronisations() -> Iterator[list[str]]:
    """Yield where the host waited for the GPU, filled in while the block runs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        places: list[str] = []
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
            places += [
                f"{each.filename}:{each.lineno}"
                for each in caught
                if "synchroniz" in str(each.message)
            ]


def synchronisations(models: Models) -> Iterator[Finding]:
    """Those of four micro-batches over those of one: a micro-batch must not add any."""
    require_cuda("waiting for a stream")
    for stage in (0, 2, 3):
        with trainer(models.small, zero_stage=stage, dtype=DType.bfloat16) as built:
            counts = {}
            for count in (1, 1, 4):  # the first call sets up
                work = batches(count)
                with counted_synchronisations() as places:
                    built.forward_backward(work, OBJECTIVE)
                counts[count] = places
                built.optim_step(len(counts))
            added = (len(counts[4]) - len(counts[1])) / 3
            for place in sorted(set(counts[4])):
                print(f"     {place}", flush=True)
            yield Finding(
                check=f"synchronisations a micro-batch, stage {stage}", value=added, bound=0
            )


def overlap(models: Models) -> Iterator[Finding]:
    """Stage 3 gathers on a stream of its own: the same weights to a bit, and what it gains."""
    require_cuda("a stream beside another")
    after = []
    for on in (True, False):
        choose_overlap(on)
        with trainer(models.large, zero_stage=3, dtype=DType.bfloat16) as built:
            seconds, _ = measure(stepping(built, MIX), models.repetitions)
            after.append({name: tensor.cpu() for name, tensor in weights(built).items()})
        yield Finding(check=f"stage 3 with overlap_comm={on}", value=seconds, unit=" s a step")
    yield Finding(check="overlap_comm: tensors that differ", value=changed(*after), bound=0)


def choose_overlap(on: bool) -> None:
    """For the rest of this process; it is no option, because one of the two is better."""
    settled = deepspeed_engine.engine_config

    def configured(*args: Any, **options: Any) -> dict[str, Any]:
        config = settled(*args, **options)
        config["zero_optimization"]["overlap_comm"] = on
        return config

    deepspeed_engine.engine_config = configured


def stepping(built: DeepSpeedTrainer, mix: Mix) -> Step:
    work = mix.batches(built.module.model.config.vocab_size, budget=16384)
    numbers = iter(range(1, 1000))

    def step() -> None:
        built.forward_backward(work, OBJECTIVE)
        built.optim_step(next(numbers))

    return step


def sleep(models: Models) -> Iterator[Finding]:
    """A trainer that slept trains on bit for bit, and its memory was given back."""
    work = batches(2)
    for stage in (0, 1, 2, 3):
        after = []
        for sleeps in (False, True):
            with trainer(models.small, zero_stage=stage, dtype=DType.bfloat16) as built:
                for number in (1, 2, 3):
                    built.forward_backward(work, OBJECTIVE)
                    built.optim_step(number)
                    if sleeps:
                        freed = built.sleep()
                after.append(weights(built))
        differing = changed(*after)
        yield Finding(
            check=f"sleep at stage {stage}: tensors that differ", value=differing, bound=0
        )
        yield Finding(check=f"sleep at stage {stage}: freed", value=freed / 1e6, unit=" MB")


def pinned_slots(models: Models) -> Iterator[Finding]:
    """Between the GPU and a file of shared memory, as pushes do it: as it is, and registered."""
    require_cuda("registered host memory")
    device = torch.device("cuda")
    size = TINY_BYTES if models.tiny else BYTES
    there = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    path = shared_memory_directory() / f"rlpost-gpu-check-{os.getpid()}"
    try:
        for name, mapped in {"as it is": HostPages(), "registered": host_pages(device)}.items():
            yield from _copied(there, mapped.of(path, size), name=name, times=models.repetitions)
            mapped.close()
    finally:
        path.unlink(missing_ok=True)


def _copied(
    there: torch.Tensor, pages: torch.Tensor, *, name: str, times: int
) -> Iterator[Finding]:
    back = torch.zeros_like(there)
    ways: dict[str, Step] = {
        "out": lambda: copy_bytes(there, pages),
        "back": lambda: back.copy_(pages),
    }
    for way, copy in ways.items():
        seconds, _ = measure(copy, times)
        pace = there.numel() / seconds / 1e9
        yield Finding(check=f"shared memory, {name}, {way}", value=pace, unit=" GB/s")
    differing = int((there != back).sum())
    yield Finding(check=f"shared memory, {name}: bytes that differ", value=differing, bound=0)
    known = float(pages.is_pinned())
    yield Finding(
        check=f"shared memory, {name}: known to CUDA",
        value=known,
        least=float(name == "registered"),
    )
