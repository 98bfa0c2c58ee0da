"""The options of generators that are SGLang servers.

Owns their declaration and the rules between them. Invariant: no argument of the user's replaces one
on which pushes, spans or access depend. Imports nothing of SGLang, which lives in an environment of
its own: it pins another torch than vLLM does.
"""

from dataclasses import dataclass

from rlpost.bounds import option
from rlpost.errors import UserError

# What ``command.settings`` decides; the way out names the option that does.
_OWNED = {
    "model-path": "model.path",
    "model": "model.path",
    "host": "nothing: a server answers this host alone",
    "port": "nothing: a free one is taken",
    "api-key": "nothing: each server gets a key of its own",
    "admin-api-key": "nothing: each server gets a key of its own",
    "config": "nothing: it is written anew for each server",
    "weight-version": "nothing: it is the number of the push",
    "skip-tokenizer-init": "nothing: stop strings need the tokenizer",
    "dtype": "generator.dtype",
    "context-length": "generator.max_model_len",
    "max-running-requests": "generator.max_num_seqs",
    "chunked-prefill-size": "generator.max_num_batched_tokens",
    "max-total-tokens": "generator.kv_cache_gib",
    "mem-fraction-static": "generator.gpu_memory_utilization",
    "tp-size": "generator.tensor_parallel_size",
    "tensor-parallel-size": "generator.tensor_parallel_size",
    "disable-cuda-graph": "generator.enforce_eager",
    "cuda-graph-backend-prefill": "generator.enforce_eager",
    "cuda-graph-backend-decode": "generator.enforce_eager",
    "enable-deterministic-inference": "generator.sglang.deterministic",
    "device": "cluster.device",
}


@dataclass(kw_only=True)
class SglangConfig:
    """Which SGLang, and what else its servers are told."""

    python: str | None = option(
        None, help="interpreter of the environment that has SGLang; null: rlpost's own"
    )
    deterministic: bool = option(
        False, help="sample by the seed, with slower kernels; otherwise SGLang ignores seeds"
    )
    arguments: list[str] = option(
        [], help="more arguments of its server, such as [--attention-backend,triton]"
    )

    def check(self, path: str) -> None:
        """Raises UserError: an argument belongs to another option."""
        for argument in self.arguments:
            name = argument.removeprefix("--").partition("=")[0].replace("_", "-")
            if argument.startswith("--") and name in _OWNED:
                raise UserError(
                    f"{path}.arguments must not hold {argument}: it is decided by {_OWNED[name]}"
                )
