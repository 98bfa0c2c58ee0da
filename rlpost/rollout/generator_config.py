"""What each generator is and may use.

Owns the options of generators, and the room for adapters that a plan resolves. Imports neither
torch nor vLLM.
"""

from dataclasses import dataclass, field
from enum import Enum

from rlpost.bounds import WEEK_S, number, option
from rlpost.errors import UserError
from rlpost.rollout.sglang.config import SglangConfig


class GeneratorDtype(Enum):
    """Precision of the generator's weights and arithmetic."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Backend(Enum):
    """Which inference engine a generator is."""

    vllm = "vllm"
    sglang = "sglang"


class Quantization(Enum):
    """Format of the linear layers' weights, rounded as they are loaded; vLLM's names.

    ``fp8_per_block`` has a scale for each 128 x 128 weights, as DeepSeek-V3 was trained with.
    """

    none = "none"
    fp8_per_tensor = "fp8_per_tensor"
    fp8_per_block = "fp8_per_block"


class KVCacheDtype(Enum):
    """Format of the key-value cache. ``fp8``: e4m3 with scales of 1."""

    auto = "auto"
    fp8 = "fp8"


@dataclass(kw_only=True)
class EngineConfig:
    """What one engine is and may use."""

    dtype: GeneratorDtype = option(
        GeneratorDtype.auto,
        help="number format of the weights; auto: bfloat16 where the hardware multiplies in it",
    )
    quantization: Quantization = option(
        Quantization.none,
        help="weights in 8 bits, rounded at each load; half the memory, on a GPU only",
    )
    kv_cache_dtype: KVCacheDtype = option(
        KVCacheDtype.auto, help="fp8: twice as many responses in the same cache; auto: as dtype"
    )
    max_model_len: int | None = number(
        None,
        at_least=2,
        at_most=10**7,
        help="longest sequence, in tokens; null: the model's context",
    )
    max_num_seqs: int | None = number(
        None,
        at_least=1,
        at_most=10**5,
        help="responses in flight per engine; null: 128 on a CPU, 256 on a GPU",
    )
    max_num_batched_tokens: int | None = number(
        None,
        at_least=1,
        at_most=10**7,
        help="tokens that an engine computes in one step; null: 8192 on a GPU, vLLM's on a CPU",
    )
    threads: int | None = number(
        None,
        at_least=1,
        at_most=1024,
        help="CPU threads of an engine's worker; null: a share of the cores, on a GPU as vLLM says",
    )
    kv_cache_gib: int | None = number(
        None,
        at_least=1,
        at_most=10**4,
        help="key-value cache of each worker; null: 1 on a CPU, on a GPU what vLLM measures",
    )
    gpu_memory_utilization: float = number(
        0.85, above=0, at_most=1, help="share of the GPU's memory, on GPU only"
    )
    tensor_parallel_size: int = number(
        1, at_least=1, at_most=1024, help="parts of the model, and GPUs, of one engine"
    )
    enforce_eager: bool | None = option(
        None, help="do not compile; null: true on a CPU, where it gains nothing, false on a GPU"
    )

    @property
    def sleeps(self) -> bool:
        """Whether it leaves its device while others work; a server never does."""
        return False

    @property
    def is_quantized(self) -> bool:
        """Whether it computes in fewer bits than its dtype says."""
        plain = (Quantization.none, KVCacheDtype.auto)
        return (self.quantization, self.kv_cache_dtype) != plain


@dataclass(kw_only=True)
class GeneratorConfig(EngineConfig):
    """How many engines there are and what each may use."""

    dtype: GeneratorDtype = option(
        GeneratorDtype.auto, help="number format of the weights; auto: like the trainer"
    )
    max_model_len: int | None = number(
        None,
        at_least=2,
        at_most=10**7,
        help="longest sequence, in tokens; null: the model's context, on a GPU what is needed",
    )
    num: int = number(1, at_least=1, at_most=10**4, help="inference engines")
    backend: Backend = option(
        Backend.vllm, help="which engine; sglang needs an environment of its own, see sglang.python"
    )
    sglang: SglangConfig = field(default_factory=SglangConfig)
    sleep: bool | None = option(
        None,
        help="leave the GPUs while others train; null: where they share GPUs and idle models leave",
    )
    setup_timeout_s: float | None = number(
        None,
        above=0,
        at_most=WEEK_S,
        help="deadline of an engine's start; null: 300 on a CPU, 1200 on a GPU",
    )
    request_timeout_s: float = number(
        600.0, above=0, at_most=WEEK_S, help="deadline of one group's responses"
    )

    @property
    def sleeps(self) -> bool:
        return bool(self.sleep)

    def check(self, path: str) -> None:
        """Raises UserError: an option is set that the backend does not have."""
        if self.backend is not Backend.sglang and self.sglang != SglangConfig():
            raise UserError(
                f"{path}.sglang.* has no effect with {path}.backend={self.backend.value}; set "
                f"{path}.backend=sglang, or leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class AdapterCapacity:
    """Adapters that an engine must hold at once; no option, a plan resolves it.

    Example: ``AdapterCapacity.of(rank=16, max_staleness=2)`` is room for 4 adapters of rank 16.
    """

    rank: int  # the largest; one that vLLM can be built for
    versions: int

    @classmethod
    def of(cls, *, rank: int, max_staleness: int) -> "AdapterCapacity":
        """Return room for adapters of a rank while training lags by so many steps.

        What may still be trained on was sampled by ``max_staleness + 1`` versions, and one more
        arrives.
        """
        return cls(rank=rank, versions=max_staleness + 2)
