"""Packed tokens a second of the DeepSpeed trainer against a bare torch loop.

Both train the same model on the same packed micro-batches with the same loss and AdamW, in
one process, in turn; the ratio is taken of the medians.

    .venv/bin/python benchmarks/trainer_throughput.py --threads 2 --repetitions 3
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ClipConfig, PolicyLossInputs
from rlpost.algorithms.reduce import ReductionConfig
from rlpost.cluster.session import free_port
from rlpost.models.locate import locate_model
from rlpost.training.batch import TokenBatch
from rlpost.training.deepspeed_trainer import DeepSpeedTrainer
from rlpost.training.objective import Objective
from rlpost.training.packing import pack
from rlpost.training.policy import PolicyInputs, load_policy
from rlpost.training.settings import DType, TrainerConfig
from rlpost.types import Group, Prompt, Span, Trajectory

OBJECTIVE = Objective(loss=ClipConfig(), kl=KLConfig())


def batches(prompts: int, samples: int, tokens: int, budget: int) -> list[TokenBatch]:
    rng = np.random.default_rng(0)
    groups, advantages = [], rng.normal(size=(prompts, samples))
    for p in range(prompts):
        ids = tuple(int(i) for i in rng.integers(100, 40_000, 40))
        trajectories = tuple(
            Trajectory(
                uid=f"0:{p}",
                sample=s,
                prompt_ids=ids,
                response_ids=tuple(int(i) for i in rng.integers(100, 40_000, tokens)),
                rollout_logprobs=(-8.0,) * tokens,
                spans=(Span(start=0, end=tokens, version=1),),
                finish_reason="stop",
                text="",
                seed=0,
                reward=0.0,
            )
            for s in range(samples)
        )
        prompt = Prompt(uid=f"0:{p}", token_ids=ids, text="")
        groups.append(Group(prompt=prompt, trajectories=trajectories))
    (packed,) = pack(
        groups, advantages, num_ranks=1, max_tokens=budget, reduction=ReductionConfig()
    )
    return packed


def bare_step(model_path: str, cfg: TrainerConfig, work: list[TokenBatch]) -> Callable[[], None]:
    policy = load_policy(model_path, dtype=torch.float32, logprob_chunk=cfg.logprob_chunk)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, weight_decay=0.0)

    def step() -> None:
        for batch in work:
            logprobs_R, entropy_R = policy(
                PolicyInputs.of(batch, device=torch.device("cpu")), temperature=1.0
            )
            result = OBJECTIVE.per_token(
                PolicyLossInputs(
                    policy_logprobs_R=logprobs_R,
                    anchor_logprobs_R=torch.as_tensor(batch.rollout_logprobs_R),
                    advantages_R=torch.as_tensor(batch.advantages_R),
                    sequence_R=torch.as_tensor(batch.sequence_R),
                    entropy_R=entropy_R,
                ),
                ref_logprobs_R=None,
            )
            (torch.as_tensor(batch.loss_weight_R) * result.values_R).sum().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--zero-stage", type=int, default=2)
    args = parser.parse_args()
    model_path = locate_model(args.model)
    cfg = TrainerConfig(
        dtype=DType.float32, threads=args.threads, zero_stage=args.zero_stage, lr=1e-6
    )
    work = batches(prompts=8, samples=8, tokens=20, budget=cfg.max_tokens_per_micro_batch)
    num_tokens = sum(batch.num_tokens for batch in work)
    trainer = DeepSpeedTrainer(
        cfg,
        model_path=model_path,
        rank=0,
        world_size=1,
        master_address="127.0.0.1",
        master_port=free_port(),
        seed=0,
    )
    bare = bare_step(model_path, cfg, work)
    seconds: dict[str, list[float]] = {"bare": [], "deepspeed": []}
    for repetition in range(args.repetitions + 1):
        start = time.perf_counter()
        bare()
        middle = time.perf_counter()
        trainer.forward_backward(work, objective=OBJECTIVE, temperature=1.0)
        trainer.optim_step(repetition + 1)
        if repetition:  # the first round warms up
            seconds["bare"].append(middle - start)
            seconds["deepspeed"].append(time.perf_counter() - middle)
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    for side, median in medians.items():
        print(f"{side:9} {num_tokens / median:7.1f} packed tokens/s")
    print(f"ratio deepspeed/bare {medians['bare'] / medians['deepspeed']:.3f}")
    trainer.close()


if __name__ == "__main__":
    main()
