"""A policy trainer, or a critic, of one real rank, for tests that need no others."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rlpost.network import free_port
from rlpost.training.critic_settings import CriticConfig
from rlpost.training.deepspeed_critic import DeepSpeedCritic
from rlpost.training.deepspeed_stepper import Rank
from rlpost.training.deepspeed_trainer import DeepSpeedTrainer
from rlpost.training.settings import DType, TrainerConfig


@contextlib.contextmanager
def trainer(path: Path, **options) -> Iterator[DeepSpeedTrainer]:
    """Build one on the model at ``path``, in float32 unless ``options`` say otherwise."""
    defaults = {"dtype": DType.float32, "threads": 1, "lr": 1e-3, "logprob_chunk": 32}
    built = DeepSpeedTrainer(
        TrainerConfig(**defaults | options),
        model_path=str(path),
        rank=0,
        world_size=1,
        master_address="127.0.0.1",
        master_port=free_port(),
        seed=0,
    )
    try:
        yield built
    finally:
        built.close()


@contextlib.contextmanager
def critic(path: Path, *, policy_path: Path | None = None, **options) -> Iterator[DeepSpeedCritic]:
    """Build one on the model at ``path``, in float32 unless ``options`` say otherwise."""
    policy = TrainerConfig(**{"dtype": DType.float32, "threads": 1} | options)
    built = DeepSpeedCritic(
        CriticConfig(lr=1e-3).trainer(policy),
        model_path=str(path),
        policy_path=str(policy_path or path),
        place=Rank(rank=0, world_size=1, master_address="127.0.0.1", master_port=free_port()),
        seed=0,
    )
    try:
        yield built
    finally:
        built.close()
