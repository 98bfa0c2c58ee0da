"""How a trainer group is configured.

Owns the trainer's options and their rules. Refuses to own what they become (schedule.py,
precision.py, deepspeed_engine.py). Imports neither torch nor deepspeed, so a command line
can be checked in an instant.
"""

import os
from dataclasses import dataclass
from enum import Enum

from rlpost.errors import UserError


class LRSchedule(Enum):
    """Shape of the learning rate after warm-up; cosine and linear end at 0."""

    constant = "constant"
    cosine = "cosine"
    linear = "linear"


class DType(Enum):
    """What the forward and backward pass compute in.

    ``bfloat16`` keeps fp32 master weights. ``auto`` is bfloat16 where the hardware computes
    in it (CUDA, or a CPU with avx512_bf16 or amx_bf16), else float32.
    """

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(kw_only=True)
class TrainerConfig:
    """The policy trainer: AdamW under DeepSpeed ZeRO.

    Stage 0 with bfloat16 sums the gradients of micro-batches in bfloat16; stages 1 to 3 sum
    them in float32. Weight decay acts on every parameter.
    """

    steps: int = 100  # optimizer steps
    lr: float = 1e-6
    warmup_steps: int = 0  # linear from 0
    lr_schedule: LRSchedule = LRSchedule.constant
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    max_grad_norm: float = 1.0  # 0 turns clipping off
    num_ranks: int = 1
    zero_stage: int = 2
    dtype: DType = DType.auto
    max_tokens_per_micro_batch: int = 2048  # packed tokens, prompts included
    gradient_checkpointing: bool = False
    share_prompts: bool = True  # compute a prompt once for all responses in its block
    threads: int | None = None  # CPU threads of a rank; None: cores // num_ranks
    logprob_chunk: int = 512  # response tokens whose logits exist at once
    stop_after_nonfinite: int = 3  # consecutive skipped steps that end the run

    def check(self, path: str = "trainer") -> None:
        """Raises UserError: a field is out of range or two of them contradict each other."""
        for name in (
            "steps",
            "num_ranks",
            "max_tokens_per_micro_batch",
            "logprob_chunk",
            "stop_after_nonfinite",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{path}.{name} must be at least 1, got {getattr(self, name)}")
        if self.max_tokens_per_micro_batch < 2:
            raise UserError(
                f"{path}.max_tokens_per_micro_batch must hold a prompt and one response token, "
                f"got {self.max_tokens_per_micro_batch}; the default is 2048"
            )
        if self.threads is not None and self.threads < 1:
            raise UserError(
                f"{path}.threads must be at least 1, got {self.threads}; null shares the cores "
                "among the ranks"
            )
        self._check_optimizer(path)
        self._check_schedule(path)
        if self.zero_stage not in (0, 1, 2, 3):
            raise UserError(
                f"{path}.zero_stage must be 0, 1, 2 or 3, got {self.zero_stage}; 2 suits most runs"
            )

    def _check_optimizer(self, path: str) -> None:
        for name, usual in (("lr", "1e-6 for full weights"), ("eps", "1e-8")):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(
                    f"{path}.{name} must be positive, got {getattr(self, name)}; usual: {usual}"
                )
        for name, usual in (("weight_decay", "0.0"), ("max_grad_norm", "1.0; 0 turns it off")):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(
                    f"{path}.{name} must be 0 or more, got {getattr(self, name)}; usual: {usual}"
                )
        for name, usual in (("beta1", 0.9), ("beta2", 0.999)):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{path}.{name} must be in [0, 1), got {getattr(self, name)}; usual: {usual}"
                )

    def _check_schedule(self, path: str) -> None:
        if self.warmup_steps < 0:
            raise UserError(f"{path}.warmup_steps must be 0 or more, got {self.warmup_steps}")
        if self.warmup_steps >= self.steps:
            raise UserError(
                f"{path}.warmup_steps must be below {path}.steps={self.steps}, got "
                f"{self.warmup_steps}; the full learning rate would never be reached"
            )

    def threads_per_rank(self) -> int:
        """CPU threads of one rank, at least 1, of the cores this process may use."""
        if self.threads is not None:
            return self.threads
        return max(1, len(os.sched_getaffinity(0)) // self.num_ranks)
