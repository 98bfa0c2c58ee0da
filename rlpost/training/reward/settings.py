"""How a reward model is used.

Owns its options. Imports no torch, like settings.py.
"""

import os
from dataclasses import dataclass
from enum import Enum

from rlpost.bounds import number, option
from rlpost.errors import UserError
from rlpost.training.settings import DType


class RewardEngine(Enum):
    """What computes the scores.

    ``transformers`` reads every ``AutoModelForSequenceClassification``; ``vllm`` (its pooling
    runner) only those that vLLM has, and keeps a GPU busier when many long responses arrive.
    """

    transformers = "transformers"
    vllm = "vllm"


@dataclass(kw_only=True)
class RewardModelConfig:
    """A frozen ``AutoModelForSequenceClassification`` with one label.

    In bfloat16 a score moves by about one part in a hundred with the batch it is in;
    float32 is the default because rewards are compared across batches.
    """

    path: str = option("", help="local directory or hub id; must be given")
    weight: float = number(
        1.0,
        at_least=-1e6,
        at_most=1e6,
        hint="1.0 is usual",
        help="factor of its reward, see rewards.rule",
    )
    normalize: bool = option(
        False, help="by the running mean and deviation of earlier steps' scores"
    )
    engine: RewardEngine = option(RewardEngine.transformers, help="what computes the scores")
    gpu_memory_utilization: float | None = number(
        None, above=0, at_most=1, help="share of the GPU's memory, only with engine=vllm; null: 0.3"
    )
    dtype: DType = option(DType.float32, help="number format of the weights")
    max_tokens_per_batch: int = number(
        8192,
        at_least=1,
        at_most=10**7,
        hint="a longer sequence is scored alone",
        help="tokens scored at once, padding included",
    )
    threads: int | None = number(
        None,
        at_least=1,
        at_most=1024,
        hint="null takes all cores",
        help="CPU threads; null: all cores of the process",
    )

    def check(self, path: str) -> None:
        """Raises UserError: the model has no path, or a field no effect."""
        if not self.path.strip():
            raise UserError(f"{path}.path must name a reward model, got {self.path!r}")
        if self.weight == 0:
            raise UserError(
                f"{path}.weight must not be 0; 1.0 is usual; leave the model out to ignore it"
            )
        share = self.gpu_memory_utilization
        if share is not None and self.engine is not RewardEngine.vllm:
            raise UserError(
                f"{path}.gpu_memory_utilization={share} has no effect with {path}.engine="
                f"{self.engine.value}; leave it out, or use engine=vllm"
            )

    def num_threads(self) -> int:
        """CPU threads of the scorer's process."""
        return self.threads or max(1, len(os.sched_getaffinity(0)))
