"""From a model's files to DeepSpeed's engine of it: whole, or under ZeRO-3 each rank its part.

Owns the choice between the two. Refuses to own the files (model/loading.py), how weights are
divided (deepspeed_parts.py), frozen models beside it (deepspeed_frozen.py) and the engine's
settings (deepspeed_engine.py). Invariants: both ways
lead to the same engine, bit for bit; all that needs whole weights is done before the engine makes
its masters, so that the two are never in memory together.
"""

from typing import Any

import torch

from rlpost.training.freed_memory import returned_when_freed
from rlpost.training.model.loading import TrainedModel
from rlpost.training.optimizers.base import Optimizer
from rlpost.training.optimizers.build import one_group
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero import deepspeed_engine as ds
from rlpost.training.zero.deepspeed_frozen import frozen_beside
from rlpost.training.zero.deepspeed_parts import load_in_parts


def load_engine(
    model: TrainedModel, cfg: TrainerConfig, *, dtype: torch.dtype, optimizer: Optimizer, seed: int
) -> Any:
    """Load a model and build its engine; collective.

    Args:
        model: what is trained.
        cfg: the options of what is trained.
        dtype: of the forward and backward pass.
        optimizer: turns gradients into updates.
        seed: of weights that the files do not have.

    Raises:
        UserError: the model cannot be loaded or packed.
    """
    options: dict[str, Any] = {
        "dtype": dtype,
        "gradient_checkpointing": cfg.gradient_checkpointing,
        "seed": seed,
        "total_steps": cfg.steps,
        "load_frozen": frozen_beside,
    }
    with returned_when_freed():
        module = load_in_parts(model, learns=True, **options) if cfg.zero_stage == 3 else None
        if module is None:
            module = model.load(**options)
        return ds.build_engine(
            module,
            cfg,
            dtype=dtype,
            optimizer=optimizer,
            group_of=one_group if module.adapter is None else module.adapter.group_of,
        )
