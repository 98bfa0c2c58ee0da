"""What the adapter of a trained module does in its steps; without one, nothing.

Owns the calls of a kind's companion (training/adapters/registry.py) and of the capacity's
measurement around passes, updates and checkpoints. Refuses to own what the kinds do, and the
adapter's tensors (deepspeed_adapter.py).
Invariant: a term of the loss counts once, whatever the number of ranks.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlpost.training.optimizers.base import Optimizer
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.zero.deepspeed_capacity import CapacityMeter, LossOf
from rlpost.training.zero.deepspeed_checkpoint import load_companion
from rlpost.training.zero.deepspeed_state import engine_state, multiply


class AdapterSteps:
    """The adapter's part in the verbs of one rank.

    Args:
        engine: DeepSpeed's.
        optimizer: of the engine.
        device: that the engine computes on.
    """

    def __init__(self, engine: Any, optimizer: Optimizer, *, device: torch.device) -> None:
        self._engine, self._optimizer = engine, optimizer
        self._live = engine.module.adapter
        self._capacity = CapacityMeter.of(engine.module, rank=dist.get_rank(), device=device)
        self._measured: dict[str, float] = {}  # before the latest update
        self._companion = None if self._live is None else self._live.companion

    def before_update(self, batches: Sequence[MicroBatch], *, update: int, loss: LossOf) -> None:
        """Measure the adapter's capacity if it is time; see ``CapacityMeter.measure``."""
        if self._capacity is not None:
            self._measured = self._capacity.measure(batches, update=update, loss=loss)

    def with_term(self, loss: Tensor) -> Tensor:
        """Add this rank's share of the kind's term to the loss of a pass."""
        term = None if self._companion is None else self._companion.extra_loss()
        return loss if term is None else loss + term / dist.get_world_size()

    def after_update(self, step_id: int, *, applied: bool) -> dict[str, float]:
        """Let the kind change its weights; returns its metrics and those of the capacity."""
        if self._companion is None:
            return self._measured
        factors = self._companion.after_step(step_id, applied=applied)
        if factors:
            named = {f"model.{name}": factor for name, factor in factors.items()}
            multiply(engine_state(self._engine, self._optimizer), named)
        return {**self._companion.metrics(), **self._measured}

    def scoring(self, *, adapter: bool) -> AbstractContextManager[None]:
        """Return a block in which the module answers with its adapter, or as its base."""
        return nullcontext() if adapter or self._live is None else self._live.off()

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return what a checkpoint keeps of the kind."""
        return {} if self._companion is None else self._companion.state_dict()

    def load(self, directory: Path) -> None:
        """Restore it."""
        if self._companion is not None:
            self._companion.load_state_dict(load_companion(directory))
