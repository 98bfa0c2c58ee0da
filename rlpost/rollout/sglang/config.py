"""The options of generators that are SGLang servers.

Owns their declaration and the rules between them. Invariant: no argument of the user's replaces one
on which pushes, spans or access depend. Imports nothing of SGLang, which lives in an environment of
its own: it pins another torch than vLLM does.
"""

from dataclasses import dataclass

from rlpost.bounds import option
from rlpost.errors import UserError

# What ``command.settings`` decides, and by which option.
_OWNED = {
    "model-path": "model.path decides it",
    "model": "model.path decides it",
    "host": "a server answers this host alone",
    "port": "a free one is taken",
    "api-key": "each server gets a key of its own",
    "admin-api-key": "each server gets a key of its own",
    "config": "it is written anew for each server",
    "weight-version": "it is the number of the push",
    "skip-tokenizer-init": "stop strings need the tokenizer",
    "dtype": "generator.dtype decides it",
    "context-length": "generator.max_model_len decides it",
    "max-running-requests": "generator.max_num_seqs decides it",
    "chunked-prefill-size": "generator.max_num_batched_tokens decides it",
    "max-total-tokens": "generator.kv_cache_gib decides it",
    "mem-fraction-static": "generator.gpu_memory_utilization decides it",
    "tp-size": "generator.tensor_parallel_size decides it",
    "tensor-parallel-size": "generator.tensor_parallel_size decides it",
    "disable-cuda-graph": "generator.enforce_eager decides it",
    "cuda-graph-backend-prefill": "generator.enforce_eager decides it",
    "cuda-graph-backend-decode": "generator.enforce_eager decides it",
    "enable-deterministic-inference": "generator.sglang.deterministic decides it",
    "device": "cluster.device decides it",
    "preferred-sampling-params": "each request says how it is sampled",
    "sampling-defaults": "each request says how it is sampled",
    "dp-size": "generator.num decides how many engines there are",
    "data-parallel-size": "generator.num decides how many engines there are",
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
        for argument in filter(_is_option, self.arguments):
            for name, decided in _OWNED.items():
                # SGLang takes the beginning of a name for the whole of it (argparse).
                if name.startswith(_name(argument)):
                    raise UserError(
                        f"{path}.arguments must not set --{name}, got {argument}: {decided}; leave "
                        "it out"
                    )


def _is_option(argument: str) -> bool:
    return argument.startswith("--") and argument != "--"


def _name(argument: str) -> str:
    """Example: ``_name("--tp_size=2") == "tp-size"``."""
    return argument.removeprefix("--").partition("=")[0].replace("_", "-")
