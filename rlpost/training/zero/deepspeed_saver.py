"""One rank's checkpoints: copied between two steps, written behind the run, restored.

Owns the thread that writes and what a state belongs to. Refuses to own the files
(deepspeed_checkpoint.py) and when they are written. Invariant: one checkpoint is written at a time.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist

from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.optimizers.base import Optimizer
from rlpost.training.zero.deepspeed_adapter_steps import AdapterSteps
from rlpost.training.zero.deepspeed_checkpoint import (
    StepperProgress,
    load_state,
    take_snapshot,
    write_snapshot,
)
from rlpost.training.zero.deepspeed_state import engine_state


class Saver:
    """Of an engine that is awake, between two steps.

    Args:
        engine: DeepSpeed's.
        optimizer: of the engine.
        adapter: the adapter's part, which has a state of its own.
        plan: what is put on the base, without which a state is worthless; None: nothing is, and
            every weight is in the state.
        seed: of the random generators, for another number of ranks.
    """

    def __init__(
        self,
        engine: Any,
        optimizer: Optimizer,
        *,
        adapter: AdapterSteps,
        plan: Adaptation | None,
        seed: int,
    ) -> None:
        self._engine, self._optimizer, self._adapter = engine, optimizer, adapter
        self._identity = None if plan is None else plan.identity()
        self._seed = seed
        self._writing: Future[None] | None = None

    def begin(self, directory: Path, progress: StepperProgress) -> None:
        """Copy the state; returns while a thread still writes it."""
        assert self._writing is None, "finish_save must end the last save first"
        snapshot = take_snapshot(
            engine_state(self._engine, self._optimizer),
            rank=dist.get_rank(),
            num_ranks=dist.get_world_size(),
            progress=progress,
            adapter=self._identity,
            companion=self._adapter.state_dict(),
        )
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing = thread.submit(write_snapshot, snapshot, directory)
        thread.shutdown(wait=False)  # takes no other work and ends by itself

    def finish(self) -> None:
        """Wait until this rank's files are written; not collective.

        Raises:
            CheckpointWriteError: the disk refused; the engine is as good as before.
        """
        assert self._writing is not None, "begin_save comes first"
        writing, self._writing = self._writing, None
        writing.result()

    def load(self, directory: Path) -> StepperProgress:
        """Restore what was saved; see ``load_state``."""
        progress = load_state(
            engine_state(self._engine, self._optimizer),
            directory,
            rank=dist.get_rank(),
            num_ranks=dist.get_world_size(),
            seed=self._seed,
            adapter=self._identity,
        )
        self._adapter.load(directory)
        return progress
