"""A sequence classifier in vLLM's pooling runner: token ids in, one score each out.

Owns the engine, in this very process: with nothing below it, whoever ends the process ends all
of it. Refuses to own what is read (training/reward/scorer.py). Invariant: no prefix is cached
and no prompt cut, so a sequence's score does not depend on what was scored before.
"""

import os
from collections.abc import Sequence
from typing import Any

from rlpost.network import LOOPBACK, use_interface_to
from rlpost.training.precision import resolve_dtype
from rlpost.training.reward.reader import ReadResponse
from rlpost.training.reward.settings import RewardModelConfig

CPU_CACHE_GIB = 1  # the least that vLLM takes; a classifier keeps nothing between requests
GPU_SHARE = 0.3


class VllmClassifier:
    """Loads the model at ``model_path``.

    Raises:
        ValueError: vLLM cannot serve it.
    """

    def __init__(self, cfg: RewardModelConfig, *, model_path: str) -> None:
        # vLLM reads these when it is imported.
        os.environ["OMP_NUM_THREADS"] = str(cfg.num_threads())
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(CPU_CACHE_GIB)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ["VLLM_HOST_IP"] = LOOPBACK
        use_interface_to(LOOPBACK)
        import torch
        from transformers import AutoConfig
        from vllm import LLM

        text_config = AutoConfig.from_pretrained(model_path).get_text_config()
        self._llm: Any = LLM(
            model=model_path,
            runner="pooling",
            convert="classify",
            dtype=str(resolve_dtype(cfg.dtype)).removeprefix("torch."),
            max_num_batched_tokens=max(
                cfg.max_tokens_per_batch, getattr(text_config, "max_position_embeddings", 0)
            ),
            gpu_memory_utilization=cfg.gpu_memory_utilization or GPU_SHARE,
            distributed_executor_backend="uni",
            enforce_eager=True,
            enable_prefix_caching=False,
            enable_chunked_prefill=False,
        )
        torch.set_num_threads(cfg.num_threads())

    def sleep(self) -> int:
        """Stay: what vLLM has reserved it keeps."""
        return 0

    def scores(self, readings: Sequence[ReadResponse]) -> list[list[float]]:
        """Score the ends of sequences that fit the model's context: logits, no sigmoid."""
        if not readings:  # none that the model can read
            return []
        from vllm import PoolingParams
        from vllm.inputs import TokensPrompt

        outputs = self._llm.encode(
            [TokensPrompt(prompt_token_ids=list(reading.ids)) for reading in readings],
            pooling_params=PoolingParams(use_activation=False),
            pooling_task="classify",
            use_tqdm=False,
        )
        return [[float(output.outputs.data.item())] for output in outputs]
