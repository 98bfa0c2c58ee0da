"""A trainer of one real rank, for tests that need no others."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rlpost.network import free_port
from rlpost.training.model.loading import TrainedModel
from rlpost.training.optimizers.base import OptimizerConfig
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank


@contextlib.contextmanager
def trainer(
    path: Path,
    *,
    seed: int = 0,
    model: TrainedModel | None = None,
    optimizer: OptimizerConfig | None = None,
    **options,
) -> Iterator[DeepSpeedTrainer]:
    """Build one of the policy at ``path``, or of ``model``; in float32 unless told otherwise."""
    defaults = {"dtype": DType.float32, "threads": 1, "lr": 1e-3, "logprob_chunk": 32}
    cfg = TrainerConfig(**defaults | options)
    place = Rank(rank=0, world_size=1, master_address="127.0.0.1", master_port=free_port())
    model = model or TrainedModel.policy(str(path), cfg)
    built = DeepSpeedTrainer(cfg, model=model, place=place, seed=seed, optimizer=optimizer)
    try:
        yield built
    finally:
        built.close()


def critic(
    path: Path, *, policy_path: Path | None = None, **options
) -> contextlib.AbstractContextManager[DeepSpeedTrainer]:
    """Build one of the critic at ``path``, which is a causal LM or a reward model."""
    model = TrainedModel.critic(str(path), policy_path=str(policy_path or path))
    return trainer(path, model=model, **options)
