"""The models that benchmarks compare, each loaded in one way for all of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rlpost.network import free_port
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.packed_model import PackedModel
from rlpost.training.precision import compute_device, resolve_dtype
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank


@contextmanager
def lone_trainer(path: str, cfg: TrainerConfig) -> Iterator[DeepSpeedTrainer]:
    """The trainer as the only rank, in this process."""
    place = Rank(rank=0, world_size=1, master_address="127.0.0.1", master_port=free_port())
    built = DeepSpeedTrainer(cfg, model=TrainedModel.policy(path, cfg), place=place, seed=0)
    try:
        yield built
    finally:
        built.close()


def packed_policy(path: str, cfg: TrainerConfig) -> PackedModel:
    """The model as the trainer loads it, without the trainer."""
    model = TrainedModel.policy(path, cfg).load(
        dtype=resolve_dtype(cfg.dtype), gradient_checkpointing=cfg.gradient_checkpointing
    )
    return model.to(compute_device())


def plain_policy(path: str, dtype: torch.dtype) -> nn.Module:
    """The model as transformers loads it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    return model.to(compute_device())
