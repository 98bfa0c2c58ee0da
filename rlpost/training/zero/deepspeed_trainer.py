"""One rank of what is trained: the verbs around a DeepSpeed ZeRO engine.

Owns the order of the verbs, sleep and export. Refuses to own Ray (cluster/), the passes
(deepspeed_passes.py), the updates (deepspeed_updates.py) and checkpoints (deepspeed_saver.py).
Invariants: gradients wait for one ``optim_step`` and nothing else happens meanwhile; whatever a
verb touches is awake.

Every verb is collective: all ranks call it in the same order, with equally many
micro-batches.

Legend: R scored tokens of one micro-batch.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.loss import Objective
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.sequence_parallel import SequenceGroup
from rlpost.training.optimizers.adamw import AdamWConfig
from rlpost.training.optimizers.base import OptimizerConfig
from rlpost.training.optimizers.build import kind_of
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.packing.pack import one_batch
from rlpost.training.packing.units import Unit
from rlpost.training.parking import Parking
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero import deepspeed_engine as ds
from rlpost.training.zero.deepspeed_adapter import save_adapter
from rlpost.training.zero.deepspeed_adapter_steps import AdapterSteps
from rlpost.training.zero.deepspeed_frozen import destroy, release
from rlpost.training.zero.deepspeed_gradient_buffers import GradientBuffers
from rlpost.training.zero.deepspeed_gradients import LoneGradients
from rlpost.training.zero.deepspeed_loading import load_engine
from rlpost.training.zero.deepspeed_passes import Passes, require_columns
from rlpost.training.zero.deepspeed_saver import Saver
from rlpost.training.zero.deepspeed_served import served_weights
from rlpost.training.zero.deepspeed_updates import Updates
from rlpost.training.zero.deepspeed_usage import Usage
from rlpost.training.zero.deepspeed_weights import save_model, weight_shapes
from rlpost.training.zero.rank import Rank
from rlpost.weights.publisher import ServedWeights


class DeepSpeedTrainer:
    """One rank's engine. The module is on its device and shared with nobody.

    Example::

        place = Rank(rank=0, world_size=1, master_address="127.0.0.1", master_port=29500)
        trainer = DeepSpeedTrainer(cfg, model=TrainedModel.policy(path, cfg), place=place, seed=0)
        tally = trainer.forward_backward(batches, objective)
        metrics = merge([tally]).metrics() | trainer.optim_step(1)
    """

    def __init__(
        self,
        cfg: TrainerConfig,
        *,
        model: TrainedModel,
        place: Rank,
        seed: int,
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        """Join the ranks, load the model and build the engine.

        Args:
            cfg: the options of what is trained.
            model: what is trained.
            place: this rank.
            seed: of the random generators; each rank adds its number.
            optimizer: None: AdamW.

        Raises:
            UserError: the model cannot be loaded or packed, or reads other tokens.
        """
        model.require_vocabulary()
        self.cfg = cfg
        self.dtype = resolve_dtype(cfg.dtype)
        self._model, self._place = model, place
        torch.set_num_threads(cfg.threads_per_rank())
        for seed_it in (random.seed, np.random.seed, torch.manual_seed):
            seed_it(seed + place.rank)
        self._device = ds.join_ranks(**vars(place))
        self._optimizer = kind_of(optimizer or AdamWConfig(), cfg)
        self._engine = load_engine(
            model, cfg, dtype=self.dtype, optimizer=self._optimizer, seed=seed
        )
        self._engine.module.group = SequenceGroup.join(
            cfg.sequence_parallel_size, timeout=ds.COLLECTIVE_TIMEOUT
        )
        self._served = served_weights(self._engine.module, model, dtype=self.dtype)
        self._gradients = LoneGradients.of(self._engine)
        self._buffers = GradientBuffers(self._engine, device=self._device)
        self._parking = Parking(self._engine.module, self._engine.optimizer, device=self._device)
        self._usage = Usage(
            self._engine,
            model,
            dtype=self.dtype,
            device=self._device,
            sharing=cfg.sequence_parallel_size,
        )
        self._adapter = AdapterSteps(self._engine, self._optimizer, device=self._device)
        self._passes = Passes(
            self._engine,
            adapter=self._adapter,
            usage=self._usage,
            device=self._device,
            name=model.labels.metrics,
        )
        self._updates = Updates(
            self._engine, cfg, labels=model.labels, adapter=self._adapter, usage=self._usage
        )
        self._saver = Saver(
            self._engine, self._optimizer, adapter=self._adapter, plan=model.adapter, seed=seed
        )

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine, ready to learn: one that sleeps is brought back to memory first."""
        self._parking.wake()
        self._buffers.restore()
        return self._engine

    @property
    def module(self) -> Any:
        """The ``PackedModel`` itself; under ZeRO-3 its weights are in pieces."""
        self._parking.wake()
        return self._engine.module

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for _, _, shape in weight_shapes(self.module))

    def sleep(self) -> int:
        """Move weights and optimizer out of memory until the next verb; returns the bytes."""
        assert not self._updates.waiting, "gradients wait for optim_step"
        self._parking.wake()
        ds.release_gathered(self._engine)
        for frozen in self._engine.module.frozen:
            release(frozen)
        self._buffers.release()
        if self._gradients is not None:
            self._gradients.release()
        return self._parking.park()

    def forward_backward(
        self, batches: Sequence[MicroBatch], objective: Objective, *, temperature: float = 1.0
    ) -> Tally:
        """Accumulate the gradient of one optimizer batch; this rank's share of it.

        Args:
            batches: this rank's micro-batches, as many as on every other rank; neighbours that
                divide them (``cfg.sequence_parallel_size``) have the same.
            objective: gives the loss; the batches carry its columns.
            temperature: divides the logits, as it did in the sampler.

        Returns:
            This rank's sums (``algorithms.diagnostics.merge`` combines ranks): the objective's
            diagnostics over what counts, and ``<actor or critic>/loss``. Ranks that share
            micro-batches return the same: one of them is counted.
        """
        assert not self._updates.waiting, "optim_step must consume the gradients first"
        assert batches, "an optimizer batch without micro-batches: skip the step instead"
        require_columns(batches, objective)
        self._passes.check_equal(len(batches))
        self._parking.wake()  # which is not counted as work
        self._buffers.restore()
        self._adapter.before_update(
            batches,
            update=self._updates.progress.step_id + 1,
            loss=lambda batch: self._passes.plain_loss(batch, objective, temperature),
        )
        self._updates.waiting = True
        return self._passes.learn(batches, objective, temperature=temperature)

    def optim_step(self, step_id: int) -> dict[str, float]:
        """Apply the accumulated gradient as step ``step_id`` (1-based; gaps are allowed).

        Returns, under the prefix of what is trained, ``lr``, ``grad_norm`` (before clipping;
        absent when not finite) and ``skipped_update`` (0 or 1), the same on every rank; memory
        in GB; and ``perf/mfu/..``, of this rank, where the peak of its device is known. A
        repeated id returns the recorded result and changes nothing.

        Raises:
            RunFailed: ``stop_after_nonfinite`` updates in a row had non-finite gradients.
        """
        return self._updates.apply(step_id)

    def score(
        self, batches: Sequence[MicroBatch], temperature: float = 1.0, *, adapter: bool = True
    ) -> list[np.ndarray]:
        """Log-probs or values (float32, (R,)) of every micro-batch's scored tokens.

        Without ``adapter`` they are those of the base alone.
        """
        self._parking.wake()
        return self._passes.score(batches, temperature=temperature, adapter=adapter)

    def measure(self, batches: Sequence[MicroBatch], objective: Objective) -> Tally:
        """Evaluate an objective on data that is not learned from; this rank's sums."""
        self._parking.wake()
        return self._passes.measure(batches, objective)

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score each token after the first, per sequence, at temperature 1.

        Every rank gets the same sequences and returns the same numbers.
        """
        units = [Unit.sharing(ids[:1], {number: ids[1:]}) for number, ids in enumerate(sequences)]
        (scores_R,) = self.score([one_batch(units)])
        cuts = np.cumsum([len(ids) - 1 for ids in sequences])[:-1]
        return [part.tolist() for part in np.split(scores_R, cuts)]

    @property
    def served(self) -> ServedWeights:
        """What generators get, of weights that are awake."""
        self._parking.wake()
        return self._served

    def export(self, directory: Path) -> None:
        """Write a Hugging Face model directory with tokenizer (rank 0 writes).

        A policy is a causal language model, a critic a sequence classifier with one label. Of a
        model with an adapter it is the adapter's directory, which names the base.

        Raises:
            UserError: transformers has no such class for this architecture.
        """
        write = self._place.rank == 0
        if self.module.adapter is not None:
            save_adapter(self.module, self._model, directory, dtype=self.dtype, write=write)
        else:
            save_model(self.module, self._model, directory, dtype=self.dtype, write=write)
        dist.barrier()

    def begin_save(self, directory: Path) -> None:
        """Copy the state between two steps; returns while a thread still writes it.

        The engine may go on. ``directory`` is complete when ``finish_save`` has returned on
        every rank.
        """
        assert not self._updates.waiting, "gradients are not saved: call optim_step first"
        self._parking.wake()
        self._saver.begin(directory, self._updates.progress)

    def finish_save(self) -> None:
        """Wait until this rank's files of ``begin_save`` are written; not collective.

        Raises:
            CheckpointWriteError: the disk refused; the engine is as good as before.
        """
        self._saver.finish()

    def load(self, directory: Path) -> None:
        """Restore what was saved, by however many ranks at whatever ZeRO stage.

        Raises:
            DataError: files are missing or damaged.
            UserError: it is the state of another model.
        """
        assert not self._updates.waiting, "the gradients that wait would join the loaded state"
        self._parking.wake()
        self._updates.progress = self._saver.load(directory)

    def close(self) -> None:
        """Leave the ranks; the process may build another trainer afterwards."""
        for frozen in self._engine.module.frozen:
            destroy(frozen)
        ds.leave_ranks(self._engine)
