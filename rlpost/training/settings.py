"""How a trainer group is configured.

Owns the trainer's options and their rules. Refuses to own what they become (schedule.py,
precision.py, deepspeed_engine.py). Imports neither torch nor deepspeed, so a command line
can be checked in an instant.
"""

import os
from dataclasses import dataclass
from enum import Enum

from rlpost.bounds import number
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

    steps: int = number(100, at_least=1, at_most=10**8)  # optimizer steps
    lr: float = number(1e-6, above=0, at_most=1, hint="1e-6 is usual for full weights")
    warmup_steps: int = number(0, at_least=0, at_most=10**8)  # linear from 0
    lr_schedule: LRSchedule = LRSchedule.constant
    weight_decay: float = number(0.0, at_least=0, at_most=10, hint="0.0 is usual")
    beta1: float = number(0.9, at_least=0, below=1, hint="0.9 is usual")
    beta2: float = number(0.999, at_least=0, below=1, hint="0.999 is usual")
    eps: float = number(1e-8, above=0, at_most=1, hint="1e-8 is usual")
    max_grad_norm: float = number(
        1.0, at_least=0, at_most=1e9, hint="1.0 is usual, 0 turns clipping off"
    )
    num_ranks: int = number(1, at_least=1, at_most=10**4)
    zero_stage: int = number(2, at_least=0, at_most=3, hint="2 suits most runs")
    dtype: DType = DType.auto
    # Packed tokens, prompts included.
    max_tokens_per_micro_batch: int = number(
        2048, at_least=2, at_most=10**7, hint="the default is 2048"
    )
    gradient_checkpointing: bool = False
    share_prompts: bool = True  # compute a prompt once for all responses in its block
    # CPU threads of a rank; None: cores // num_ranks.
    threads: int | None = number(
        None, at_least=1, at_most=1024, hint="null shares the cores among the ranks"
    )
    # Response tokens whose logits exist at once.
    logprob_chunk: int = number(512, at_least=1, at_most=10**7)
    # Consecutive skipped steps that end the run.
    stop_after_nonfinite: int = number(3, at_least=1, at_most=10**6)

    def check(self, path: str = "trainer") -> None:
        """Raises UserError: the warm-up leaves no step for what comes after it."""
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
