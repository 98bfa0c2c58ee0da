"""How a reward model is used.

Owns its options. Imports no torch, like settings.py.
"""

import os
from dataclasses import dataclass
from enum import Enum

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

    path: str = ""  # local directory or hub id; must be given
    weight: float = 1.0  # factor in the weighted sum of rewards
    normalize: bool = False  # by the running mean and deviation of earlier steps' scores
    engine: RewardEngine = RewardEngine.transformers
    gpu_memory_utilization: float | None = None  # engine=vllm on a GPU only; None: 0.3
    dtype: DType = DType.float32
    max_tokens_per_batch: int = 8192  # padding included
    threads: int | None = None  # CPU threads; None: all of the process's cores

    def check(self, path: str = "reward") -> None:
        """Raises UserError: a field is out of range."""
        if not self.path.strip():
            raise UserError(f"{path}.path must name a reward model, got {self.path!r}")
        if not -float("inf") < self.weight < float("inf") or self.weight == 0:
            raise UserError(
                f"{path}.weight must be finite and not 0, got {self.weight}; usual: 1.0; leave "
                "the model out to ignore it"
            )
        if self.max_tokens_per_batch < 1:
            raise UserError(
                f"{path}.max_tokens_per_batch must be at least 1, got "
                f"{self.max_tokens_per_batch}; a longer sequence is scored alone"
            )
        share = self.gpu_memory_utilization
        if share is not None and self.engine is not RewardEngine.vllm:
            raise UserError(
                f"{path}.gpu_memory_utilization={share} has no effect with {path}.engine="
                f"{self.engine.value}; leave it out, or use engine=vllm"
            )
        if share is not None and not 0 < share <= 1:
            raise UserError(f"{path}.gpu_memory_utilization must be in (0, 1], got {share}")
        if self.threads is not None and self.threads < 1:
            raise UserError(
                f"{path}.threads must be at least 1, got {self.threads}; null takes all cores"
            )

    def num_threads(self) -> int:
        """CPU threads of the scorer's process."""
        return self.threads or max(1, len(os.sched_getaffinity(0)))
