"""How full a vLLM engine is, from the statistics it makes anyway.

Owns the translation of vLLM's statistics, which are no stable interface. Imports vllm: only
``sampler.py`` may import this file, late.
"""

from collections.abc import Callable
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from rlpost.control.concurrency import Load


def listener(tell: Callable[[Load], None]) -> Callable[..., StatLoggerBase]:
    """Return a stat logger factory for ``AsyncLLM`` that tells the load after every step."""

    class Listener(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            self._num_preempted = 0

        def record(
            self,
            scheduler_stats: Any,
            iteration_stats: Any,
            mm_cache_stats: Any = None,
            engine_idx: int = 0,
        ) -> None:
            if iteration_stats is not None:
                self._num_preempted += iteration_stats.num_preempted_reqs
            if scheduler_stats is not None:
                kv_use = scheduler_stats.kv_cache_usage
                tell(Load(kv_use=kv_use, num_preempted=self._num_preempted))

        def log_engine_initialized(self) -> None:
            """Nothing to say."""

    return Listener
