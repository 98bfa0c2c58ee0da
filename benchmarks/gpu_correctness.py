"""Is the trainer on this device right? The first sections of `gpu_check.py`.

Real DeepSpeed in one rank (NCCL on CUDA), random models built by code. Every check compares with a
plain transformers or torch computation.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from compared_models import lone_trainer, packed_policy, plain_policy
from gpu_section import Finding, Models
from torch import Tensor, nn
from trainer_throughput import Mix

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.algorithms.reduce import ReductionConfig
from rlpost.stages.rl.units import Packing, pack_to_train
from rlpost.training.model.logprobs import token_logprobs
from rlpost.training.model.packed_model import ModelInputs, PackedModel
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.precision import compute_device
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer
from rlpost.weights.manifest import refuse_other_model
from rlpost.weights.publisher import WeightPublisher
from rlpost.weights.transports.choice import Senders
from rlpost.weights.transports.protocol import Seat
from rlpost.weights.transports.shared_memory import (
    SharedMemoryReceiver,
    SharedMemorySender,
    shared_memory_id,
)

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())
STAGES, MICRO_BATCHES = (0, 1, 2, 3), (1, 2, 4)
MIX = Mix(prompts=4, samples=3, prompt_tokens=60, response_tokens=(5, 200))
VOCABULARY = 512  # of a small model
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "initializer_range": 0.06,  # the layers neither fade nor amplify
}
Gradients = dict[str, Tensor]


def trainer(path: str, **options: object) -> AbstractContextManager[DeepSpeedTrainer]:
    defaults = {"dtype": DType.float32, "lr": 1e-3, "steps": 1000, "logprob_chunk": 64}
    return lone_trainer(path, TrainerConfig(**defaults | options))


def batches(count: int = 1, *, share_prompts: bool = True) -> list[MicroBatch]:
    """The mix in ``count`` micro-batches."""
    groups, advantages = MIX.groups(VOCABULARY)
    everything = sum(
        len(g.prompt.token_ids) + len(e.response_ids) for g in groups for e in g.episodes
    )
    for budget in range(everything, 0, -8):
        packing = Packing(num_ranks=1, max_tokens=budget, share_prompts=share_prompts)
        (found,) = pack_to_train(
            groups, advantages[:, :, None], packing=packing, reduction=ReductionConfig()
        ).batches
        if len(found) == count:
            return found
    raise AssertionError(f"no budget gives {count} micro-batches")


def plain_logprobs(model: nn.Module, batch: MicroBatch) -> Tensor:
    """By one ordinary forward pass per sequence."""
    found = []
    ids = torch.as_tensor(batch.token_ids_T, device=compute_device())
    for block in batch.blocks:
        for response in block.responses:
            prompt_P, target_R = ids[slice(*block.prompt)], ids[slice(*response)]
            whole_1T = torch.cat([prompt_P, target_R])[None]
            logits = model(input_ids=whole_1T, use_cache=False).logits[0, len(prompt_P) - 1 : -1]
            log_RV = logits.float().log_softmax(-1)
            found.append(log_RV.gather(1, target_R[:, None]).squeeze(1))
    return torch.cat(found)


def policy_of(path: str, dtype: DType) -> PackedModel:
    return packed_policy(path, TrainerConfig(dtype=dtype, logprob_chunk=64))


def packed_logprobs(policy: PackedModel, batch: MicroBatch) -> Tensor:
    return policy(ModelInputs.of(batch, device=compute_device()), temperature=1.0)[0]


def reinforce(model: nn.Module, batch: MicroBatch, score: Callable[..., Tensor]) -> Tensor:
    device = compute_device()
    weight_R = torch.as_tensor(
        batch.columns["weight_R"] * batch.columns["advantages_R"], device=device
    )
    return -(weight_R * score(model, batch)).sum()


def gradient_of(model: nn.Module, score: Callable[..., Tensor]) -> Gradients:
    """One backward pass over everything, by ``score``."""
    model.zero_grad()
    for batch in batches():
        reinforce(model, batch, score).backward()
    return {
        n.removeprefix(
            "model.",
        ): p.grad.float().clone()
        for n, p in named(model)
    }


def named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return (model.model if isinstance(model, PackedModel) else model).named_parameters()


def relative(ours: Gradients, theirs: Gradients) -> float:
    """L2 norm of the difference over that of ``theirs``, all tensors together."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    difference = sum((ours[n].double() - theirs[n].double()).square().sum() for n in ours)
    return float((difference / sum(t.double().square().sum() for t in theirs.values())).sqrt())


def engine_gradient(built: DeepSpeedTrainer, *, plain: bool) -> Gradients:
    from deepspeed.utils import safe_get_full_grad

    found = {}
    for name, p in built.module.model.named_parameters():
        gradient = p.grad if plain else safe_get_full_grad(p)
        found[name.removeprefix("model.")] = gradient.detach().float().clone()
    return found


def weights(built: DeepSpeedTrainer) -> Gradients:
    return {name: tensor.clone() for name, tensor in built.served.tensors()}


def changed(ours: Gradients, theirs: Gradients) -> float:
    """How many tensors are not bit-equal."""
    return float(sum(not torch.equal(ours[name], theirs[name]) for name in theirs))


# Packed tokens against single sequences


def check_logprobs(models: Models) -> Iterator[Finding]:
    path = models.small
    with torch.no_grad():
        exact = plain_policy(path, torch.float32)
        policy = policy_of(path, DType.float32)
        for shared in (True, False):
            (batch,) = batches(share_prompts=shared)
            gap = (packed_logprobs(policy, batch) - plain_logprobs(exact, batch)).abs().max()
            how = "shared prompts" if shared else "own prompts"
            yield Finding(check=f"log-probs, float32, {how}", value=gap.item(), bound=1e-4)
        # In bfloat16 the measure is transformers' own distance from float32.
        rough = plain_policy(path, torch.bfloat16)
        policy = policy_of(path, DType.bfloat16)
        for shared in (True, False):
            (batch,) = batches(share_prompts=shared)
            truth = plain_logprobs(exact, batch)
            ours = (packed_logprobs(policy, batch) - truth).square().mean().sqrt().item()
            theirs = (plain_logprobs(rough, batch) - truth).square().mean().sqrt().item()
            how = "shared prompts" if shared else "own prompts"
            check = f"log-probs, bfloat16, {how}: error over transformers' ({theirs:.2g} nats)"
            yield Finding(check=check, value=ours / theirs, bound=1.25)


def check_entropy(models: Models) -> Iterator[Finding]:
    """Log-prob, entropy and both gradients from logits, against float64."""
    device = compute_device()
    generator = torch.Generator(device=device).manual_seed(0)
    logits_CV = 3 * torch.randn(100, 32000, generator=generator, device=device)
    target_C = torch.randint(0, 32000, (100,), generator=generator, device=device)
    where = {"read_R": torch.arange(100, device=device), "target_R": target_C}

    def score(logits: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(logits, nn.Identity(), **where, temperature=0.7, chunk=64)[:2]

    def exact(logits: Tensor) -> tuple[Tensor, Tensor]:
        log_CV = (logits / 0.7).log_softmax(-1)
        return log_CV.gather(1, target_C[:, None]).squeeze(1), -(log_CV.exp() * log_CV).sum(-1)

    found = []
    for function, dtype in ((score, torch.float32), (exact, torch.float64)):
        leaf = logits_CV.to(dtype, copy=True).requires_grad_()
        logprob_C, entropy_C = function(leaf)
        (logprob_C.sin().sum() + entropy_C.cos().sum()).backward()
        found.append({"value": torch.cat([logprob_C, entropy_C]), "gradient": leaf.grad})
    for name in found[0]:
        gap = relative({name: found[0][name].detach()}, {name: found[1][name].detach()})
        yield Finding(check=f"log-prob and entropy, float32: {name}", value=gap, bound=1e-5)


def check_bfloat16_gradient(models: Models) -> Iterator[Finding]:
    path = models.small
    exact = gradient_of(plain_policy(path, torch.float32), plain_logprobs)
    theirs = relative(gradient_of(plain_policy(path, torch.bfloat16), plain_logprobs), exact)
    policy = policy_of(path, DType.bfloat16)
    ours = relative(gradient_of(policy, packed_logprobs), exact)
    check = f"gradient, bfloat16: error over transformers' ({theirs:.2g})"
    yield Finding(check=check, value=ours / theirs, bound=1.25)


# The engine against plain torch


def check_gradients(models: Models) -> Iterator[Finding]:
    path = models.small
    exact = gradient_of(plain_policy(path, torch.float32), plain_logprobs)
    rough = relative(gradient_of(plain_policy(path, torch.bfloat16), plain_logprobs), exact)
    for dtype, bound in ((DType.float32, 1e-5), (DType.bfloat16, 1.5 * rough)):
        for stage in STAGES:
            for count in MICRO_BATCHES:
                with trainer(path, zero_stage=stage, dtype=dtype) as built:
                    built.forward_backward(batches(count), OBJECTIVE)
                    found = engine_gradient(built, plain=stage == 0)
                check = f"gradient, {dtype.value}, stage {stage}, {count} micro-batches"
                yield Finding(check=check, value=relative(found, exact), bound=bound)


def check_nonfinite(models: Models) -> Iterator[Finding]:
    path = models.small
    good = batches(2)
    nowhere_R = np.full_like(good[0].columns["advantages_R"], np.nan)
    columns = {**good[0].columns, "advantages_R": nowhere_R}
    bad = [replace(good[0], columns=columns), good[1]]
    for dtype in (DType.float32, DType.bfloat16):
        for stage in STAGES:
            with trainer(path, zero_stage=stage, dtype=dtype) as built:
                before = weights(built)
                built.forward_backward(bad, OBJECTIVE)
                skipped = built.optim_step(1)["actor/skipped_update"]
                name = f"{dtype.value}, stage {stage}"
                wrong = changed(weights(built), before) + (skipped != 1.0)
                yield Finding(check=f"NaN is skipped, {name}", value=wrong, bound=0)
                built.forward_backward(good, OBJECTIVE)
                skipped = built.optim_step(2)["actor/skipped_update"]
                wrong = skipped + (changed(weights(built), before) == 0)
                yield Finding(check=f"the step after NaN counts, {name}", value=wrong, bound=0)


def check_checkpoint(models: Models) -> Iterator[Finding]:
    """Bit for bit: torch's deterministic algorithms are on."""
    path = models.small
    work = batches(2)

    def steps(built: DeepSpeedTrainer, *numbers: int) -> None:
        for number in numbers:
            built.forward_backward(work, OBJECTIVE)
            built.optim_step(number)

    torch.use_deterministic_algorithms(True)
    for dtype in (DType.float32, DType.bfloat16):
        for stage in STAGES:
            with tempfile.TemporaryDirectory() as directory:
                with trainer(path, zero_stage=stage, dtype=dtype) as built:
                    steps(built, 1, 2)
                    built.begin_save(Path(directory))
                    built.finish_save()
                    steps(built, 3, 4)
                    expected = weights(built)
                with trainer(path, zero_stage=stage, dtype=dtype) as built:
                    built.load(Path(directory))
                    steps(built, 3, 4)
                    differing = changed(weights(built), expected)
            check = f"continues bit for bit, {dtype.value}, stage {stage}"
            yield Finding(check=check, value=differing, bound=0)
    torch.use_deterministic_algorithms(False)


def check_publishing(models: Models) -> Iterator[Finding]:
    path = models.large
    for stage in (2, 3):
        with trainer(path, zero_stage=stage, dtype=DType.bfloat16) as built:
            name = f"gpu-check-{os.getpid()}"
            publisher = WeightPublisher(
                lambda built=built: built.served,
                senders=Senders(staged=SharedMemorySender(run_id=name)),
            )
            try:
                start = time.perf_counter()
                locator = publisher.stage(
                    1, seats=[Seat(memory=shared_memory_id(), num_workers=1)], written=True
                )
                elapsed = time.perf_counter() - start
                (received,) = map(dict, SharedMemoryReceiver().buckets(locator))
                shapes = {tensor: shape for tensor, _, shape in built.served.shapes()}
                refuse_other_model(publisher._newest, shapes)
                differing = changed({n: t.cpu() for n, t in weights(built).items()}, received)
            finally:
                publisher.close()
        size = publisher._newest.size_bytes / 1e9
        check = f"weights arrive bit for bit, stage {stage} ({size:.2g} GB in {elapsed:.2f} s)"
        yield Finding(check=check, value=differing, bound=0)
