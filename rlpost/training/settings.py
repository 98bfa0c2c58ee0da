"""How a trainer group is configured.

Owns the trainer's options and their rules. Refuses to own what they become (schedule.py,
precision.py, deepspeed_engine.py). Imports neither torch nor deepspeed, so a command line
can be checked in an instant.
"""

import os
from dataclasses import dataclass
from enum import Enum

from rlpost.bounds import number, option
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


class ReduceDType(Enum):
    """What ranks add up each other's gradients in.

    ``bfloat16`` sends half as much and rounds every partial sum.
    """

    float32 = "float32"
    bfloat16 = "bfloat16"

    @property
    def size_bytes(self) -> int:
        return 4 if self is ReduceDType.float32 else 2


@dataclass(kw_only=True)
class ReferenceRanksConfig:
    """The frozen copy of a model that log-probs are compared with."""

    num_ranks: int = number(
        1,
        at_least=1,
        at_most=10**4,
        help="ranks that share its micro-batches, one GPU each where there are GPUs",
    )
    zero_stage: int = number(
        0,
        at_least=0,
        at_most=3,
        hint="3 divides the weights",
        help="0: each rank has all weights; 3: a part",
    )

    def check(self, path: str) -> None:
        """Raises UserError: the stage divides what a frozen model does not have."""
        check_frozen_stage(self.zero_stage, field=f"{path}.zero_stage")


def check_frozen_stage(stage: int, *, field: str) -> None:
    """Raises UserError: ``stage`` divides what a frozen model does not have."""
    if stage not in (0, 3):
        raise UserError(
            f"{field} must be 0 or 3, got {stage}: stages 1 and 2 divide the optimizer and "
            "gradients, which a frozen model does not have; use 3 to divide its weights"
        )


def require_reference(cfg: ReferenceRanksConfig, *, exists: bool, way_out: str) -> None:
    """Raises UserError: an option is given of a model that there is not.

    Args:
        cfg: its ranks.
        exists: whether a frozen model runs beside the policy.
        way_out: what would make one, to follow "leave it out, or".
    """
    default = ReferenceRanksConfig()
    for name in ("num_ranks", "zero_stage"):
        if not exists and (value := getattr(cfg, name)) != getattr(default, name):
            raise UserError(
                f"reference.{name}={value} has no effect: no reference runs beside the policy; "
                f"leave it out, or {way_out}"
            )


@dataclass(kw_only=True)
class TrainerConfig:
    """The policy trainer: an optimizer under DeepSpeed ZeRO.

    Stage 0 with bfloat16 sums the gradients of micro-batches in bfloat16; stages 1 to 3 sum
    them in float32. Those of ranks are summed in ``reduce_dtype`` at every stage. Weight decay acts
    on every parameter.
    """

    steps: int = number(100, at_least=1, at_most=10**8, help="steps of the run")
    lr: float = number(
        1e-6, above=0, at_most=1, hint="1e-6 is usual for full weights", help="learning rate"
    )
    warmup_steps: int = number(
        0, at_least=0, at_most=10**8, help="first steps, over which the learning rate rises from 0"
    )
    lr_schedule: LRSchedule = option(
        LRSchedule.constant,
        help="shape of the learning rate after warm-up; cosine and linear end at 0",
    )
    weight_decay: float = number(
        0.0,
        at_least=0,
        at_most=10,
        hint="0.0 is usual",
        help="decay of weights",
    )
    beta1: float = number(
        0.9, at_least=0, below=1, hint="0.9 is usual", help="decay of the gradient's mean, in Adam"
    )
    beta2: float = number(
        0.999,
        at_least=0,
        below=1,
        hint="0.999 is usual",
        help="decay of the squared gradient's mean, in Adam",
    )
    eps: float = number(
        1e-8, above=0, at_most=1, hint="1e-8 is usual", help="addition to Adam's denominator"
    )
    max_grad_norm: float = number(
        1.0,
        at_least=0,
        at_most=1e9,
        hint="1.0 is usual, 0 turns clipping off",
        help="a longer gradient is scaled down to it; 0: never",
    )
    num_ranks: int = number(
        1, at_least=1, at_most=10**4, help="processes, one GPU each where there are GPUs"
    )
    sequence_parallel_size: int = number(
        1,
        at_least=1,
        at_most=1024,
        hint="1 suits what fits into a GPU",
        help="neighbouring ranks that divide the tokens of each micro-batch among them",
    )
    zero_stage: int = number(
        2,
        at_least=0,
        at_most=3,
        hint="2 suits most runs",
        help="what the ranks divide: 1 optimizer, 2 and gradients, 3 and weights",
    )
    offload_optimizer: bool = option(
        False, help="keep masters, moments and gradients in host memory; the CPU updates them"
    )
    dtype: DType = option(
        DType.auto, help="what it computes in; auto: bfloat16 where the hardware has it"
    )
    reduce_dtype: ReduceDType = option(
        ReduceDType.float32,
        help="what ranks add up gradients in; bfloat16 halves what they send and rounds more",
    )
    max_tokens_per_micro_batch: int = number(
        2048,
        at_least=2,
        at_most=10**7,
        hint="the default is 2048",
        help="packed tokens of one forward pass, prompts included",
    )
    gradient_checkpointing: bool = option(
        False, help="compute activations twice and keep few: less memory, more time"
    )
    share_prompts: bool = option(True, help="compute a prompt once for all responses in its block")
    threads: int | None = number(
        None,
        at_least=1,
        at_most=1024,
        hint="null shares the cores among the ranks",
        help="CPU threads of a rank; null: the cores shared among the ranks",
    )
    logprob_chunk: int = number(
        512, at_least=1, at_most=10**7, help="response tokens whose logits exist at once"
    )
    stop_after_nonfinite: int = number(
        3,
        at_least=1,
        at_most=10**6,
        help="steps skipped in a row for a non-finite gradient, which end the run",
    )

    def check(self, path: str) -> None:
        """Raises UserError: an option has no effect, no step is left, or ranks do not divide."""
        if self.reduce_dtype is not ReduceDType.float32 and self.num_ranks == 1:
            raise UserError(
                f"{path}.reduce_dtype={self.reduce_dtype.value} has no effect with "
                f"{path}.num_ranks=1, which has no gradients to add up with another; leave it out, "
                "or train on several ranks"
            )
        if self.offload_optimizer and self.zero_stage != 3:
            raise UserError(
                f"{path}.offload_optimizer=true works with {path}.zero_stage=3, got "
                f"{self.zero_stage}: at the others DeepSpeed would sum the "
                f"gradients of micro-batches in bfloat16; set {path}.zero_stage=3, or leave it out"
            )
        if self.warmup_steps >= self.steps:
            raise UserError(
                f"{path}.warmup_steps must be below {path}.steps={self.steps}, got "
                f"{self.warmup_steps}; the full learning rate would never be reached"
            )

        if self.num_ranks % self.sequence_parallel_size:
            raise UserError(
                f"{path}.sequence_parallel_size must divide {path}.num_ranks={self.num_ranks}, got "
                f"{self.sequence_parallel_size}; with all ranks in one group it is "
                f"{self.num_ranks}, and 1 divides no micro-batch"
            )

    @property
    def data_ranks(self) -> int:
        """How many micro-batches are worked on at a time: groups of ranks that share one."""
        return self.num_ranks // self.sequence_parallel_size

    def threads_per_rank(self) -> int:
        """CPU threads of one rank, at least 1, of the cores this process may use."""
        if self.threads is not None:
            return self.threads
        return max(1, len(os.sched_getaffinity(0)) // self.num_ranks)
