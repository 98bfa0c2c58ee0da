"""How a reward model is used.

Owns its options. Imports no torch, like settings.py.
"""

import os
from dataclasses import dataclass
from enum import Enum

from rlpost.bounds import number, option
from rlpost.errors import UserError
from rlpost.training.settings import DType, check_frozen_stage


class RewardEngine(Enum):
    """What computes the scores.

    ``transformers`` reads every ``AutoModelForSequenceClassification``; ``vllm`` (its pooling
    runner) only those that vLLM has, and keeps a GPU busier when many long responses arrive.
    """

    transformers = "transformers"
    vllm = "vllm"


class StepReduction(Enum):
    """How the probabilities that steps are right become the reward of a response.

    ``min``: that of the weakest step (arXiv 2312.08935). ``product``: that all are right (arXiv
    2305.20050). ``last``: of the last step alone.
    """

    min = "min"
    product = "product"
    last = "last"


@dataclass(kw_only=True)
class RewardModelConfig:
    """A frozen classifier of transformers: of sequences, or of tokens (a process reward model).

    A sequence classifier with one label gives its score. A token classifier with one or two labels
    is read at the ends of steps, see ``data/conversation/step_ends.py``; of two labels the second
    says that the step is right.

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
    reduce: StepReduction | None = option(
        None, help="of a token classifier: min, product or last over the steps; null: min"
    )
    step_separator: str | None = option(
        None, help="of a token classifier: the text between two steps; null: a line feed"
    )
    normalize: bool = option(
        False, help="by the running mean and deviation of earlier steps' scores"
    )
    engine: RewardEngine = option(RewardEngine.transformers, help="what computes the scores")
    gpu_memory_utilization: float | None = number(
        None, above=0, at_most=1, help="share of the GPU's memory, only with engine=vllm; null: 0.3"
    )
    num_ranks: int = number(
        1,
        at_least=1,
        at_most=10**4,
        help="ranks that divide it at zero_stage=3, one GPU each where there are GPUs",
    )
    zero_stage: int = number(
        0,
        at_least=0,
        at_most=3,
        hint="3 divides the weights",
        help="0: one rank has all weights; 3: each a part",
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
        help="CPU threads of a rank; null: the cores shared among the ranks",
    )

    def check(self, path: str) -> None:
        """Raises UserError: the model has no path, or a field no effect."""
        if not self.path.strip():
            raise UserError(f"{path}.path must name a reward model, got {self.path!r}")
        if self.weight == 0:
            raise UserError(
                f"{path}.weight must not be 0; 1.0 is usual; leave the model out to ignore it"
            )
        if self.step_separator == "":
            raise UserError(
                f"{path}.step_separator must not be empty; use null for a line feed, or the text "
                "that separated the steps in training"
            )
        share = self.gpu_memory_utilization
        if share is not None and self.engine is not RewardEngine.vllm:
            raise UserError(
                f"{path}.gpu_memory_utilization={share} has no effect with {path}.engine="
                f"{self.engine.value}; leave it out, or use engine=vllm"
            )
        self._check_ranks(path)

    def _check_ranks(self, path: str) -> None:
        check_frozen_stage(self.zero_stage, field=f"{path}.zero_stage")
        if self.num_ranks > 1 and self.zero_stage == 0:
            raise UserError(
                f"{path}.num_ranks={self.num_ranks} has no effect with {path}.zero_stage=0, where "
                f"one process scores; set {path}.zero_stage=3 to divide the weights, or leave it "
                "out"
            )
        if self.zero_stage and self.engine is not RewardEngine.transformers:
            raise UserError(
                f"{path}.zero_stage={self.zero_stage} divides the weights of "
                f"{path}.engine=transformers, got {self.engine.value}; use that engine, or leave "
                "it out"
            )

    def num_threads(self) -> int:
        """CPU threads of one rank, at least 1, of the cores this process may use."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.num_ranks)
