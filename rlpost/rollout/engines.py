"""Which engine a generator drives, and how it takes pushes.

Owns the choice by ``generator.backend``. Another backend is one more case here.
"""

from rlpost.rollout.adapter_pushes import AdapterPushes
from rlpost.rollout.engine import Engine
from rlpost.rollout.generator_config import AdapterCapacity, Backend, GeneratorConfig
from rlpost.rollout.pushes import Pushes
from rlpost.rollout.sglang.engine import SglangEngine
from rlpost.rollout.vllm.sampler import VllmSampler
from rlpost.rollout.whole_pushes import WholePushes


def make_engine(
    cfg: GeneratorConfig, *, model_path: str, adapters: AdapterCapacity | None, blank: bool
) -> tuple[Engine, Pushes]:
    """Return an engine that was not started, and what takes its pushes.

    Args:
        cfg: engine settings, resolved.
        model_path: directory in Hugging Face layout.
        adapters: room for the adapters that are pushed; None: whole models are.
        blank: a whole model is pushed before anything is asked; vLLM then reads no weights.
    """
    match cfg.backend:
        case Backend.sglang:
            assert adapters is None, "a plan refuses adapters beside each other in SGLang"
            served = SglangEngine(cfg, model_path=model_path)
            return served, WholePushes(served)
        case Backend.vllm:
            engine = VllmSampler(cfg, model_path=model_path, adapters=adapters, blank=blank)
            if adapters is None:
                return engine, WholePushes(engine, blank=blank)
            return engine, AdapterPushes(engine, capacity=adapters.versions)
