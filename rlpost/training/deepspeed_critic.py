"""One rank of the critic: values, the value loss, and export as a reward model.

Owns the critic's loss of one micro-batch. Refuses to own the stepping (deepspeed_stepper.py),
Ray (cluster/), packing, returns and denominators. Invariant: the gradient of one optimizer
batch is that of ``sum(loss_weight_R * value_loss_R)`` over all micro-batches and ranks,
whatever the split.

Every verb is collective: all ranks call it in the same order, with equally many
micro-batches.

Legend: R response tokens of one micro-batch.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rlpost.algorithms.critic_loss import CriticLossConfig, CriticLossInputs, critic_loss
from rlpost.algorithms.diagnostics import Tally
from rlpost.models.vocabulary import require_same_vocabulary
from rlpost.training.batch import TokenBatch
from rlpost.training.critic import FIELD, Critic, load_critic
from rlpost.training.deepspeed_stepper import CRITIC, DeepSpeedStepper, Rank
from rlpost.training.deepspeed_weights import save_classifier, weight_shapes
from rlpost.training.policy import PolicyInputs
from rlpost.training.settings import TrainerConfig


class DeepSpeedCritic:
    """Example::

    critic = DeepSpeedCritic(critic_cfg.trainer(cfg), model_path=path, policy_path=path,
                             place=Rank(rank=0, world_size=1, master_address="127.0.0.1",
                                        master_port=29500), seed=0)
    values = critic.values(batches)
    tally = critic.forward_backward(batches_with_returns, loss=CriticLossConfig())
    metrics = merge([tally]).metrics() | critic.optim_step(1)
    """

    def __init__(
        self, cfg: TrainerConfig, *, model_path: str, policy_path: str, place: Rank, seed: int
    ) -> None:
        """Join the ranks, load the model and build the engine.

        Args:
            cfg: from ``CriticConfig.trainer``.
            model_path: a causal LM or a reward model; see ``load_critic``.
            policy_path: the model whose tokens are valued.
            place: this rank.
            seed: of the random generators.

        Raises:
            UserError: the model cannot be loaded or packed, or knows other tokens.
        """
        if model_path != policy_path:
            require_same_vocabulary(model_path, policy_path, field=FIELD)

        def load(dtype: torch.dtype) -> Critic:
            return load_critic(
                model_path, dtype=dtype, gradient_checkpointing=cfg.gradient_checkpointing
            )

        self.cfg = cfg
        self._start, self._tokenizer_path = Path(model_path), Path(policy_path)
        self._stepper = DeepSpeedStepper(cfg, role=CRITIC, place=place, seed=seed, load=load)

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for _, _, shape in weight_shapes(self._stepper.module))

    @torch.no_grad()
    def values(self, batches: Sequence[TokenBatch]) -> list[np.ndarray]:
        """Value (float32, (R,)) before each response token of every micro-batch."""
        self._stepper.check_equal(len(batches), what="micro-batches")
        results = []
        for batch in batches:
            values_R = self._stepper.engine(PolicyInputs.of(batch, device=self._stepper.device))
            results.append(values_R.cpu().numpy())
        return results

    def forward_backward(self, batches: Sequence[TokenBatch], *, loss: CriticLossConfig) -> Tally:
        """Accumulate the gradient of one optimizer batch; this rank's share of it.

        Args:
            batches: carry ``values_R`` and ``returns_R``; equally many on every rank.
            loss: the value loss.

        Returns:
            This rank's sums: the loss's diagnostics over tokens of positive weight, and
            ``critic/loss``.
        """
        return self._stepper.accumulate(
            batches, loss_of=lambda batch, tally: self._loss(batch, loss, tally)
        )

    def _loss(self, batch: TokenBatch, config: CriticLossConfig, tally: Tally) -> Tensor:
        values_R = self._stepper.engine(PolicyInputs.of(batch, device=self._stepper.device))
        weight_R = self._stepper.to_device(batch.loss_weight_R)
        counted_R = weight_R > 0
        result = critic_loss(
            CriticLossInputs(
                values_R=values_R,
                rollout_values_R=self._target(batch, "values_R", counted_R),
                returns_R=self._target(batch, "returns_R", counted_R),
            ),
            config,
        )
        # Connected to the graph even when every weight is 0: collectives of all ranks must
        # match.
        loss = (weight_R * result.values_R.masked_fill(~counted_R, 0.0)).sum()
        tally.add(result.diagnostics, counted_R=counted_R)
        tally.add_total("critic/loss", loss)
        return loss

    def _target(self, batch: TokenBatch, name: str, counted_R: Tensor) -> Tensor:
        array = getattr(batch, name)
        if batch.is_dummy and array is None:
            return torch.zeros_like(counted_R, dtype=torch.float32)
        assert array is not None, f"the batch carries no {name}"
        # A masked token may hold anything, and inf * 0 is nan.
        return self._stepper.to_device(array).masked_fill(~counted_R, 0.0)

    def optim_step(self, step_id: int) -> dict[str, float]:
        """Apply the accumulated gradient once; see ``DeepSpeedStepper.optim_step``."""
        return self._stepper.optim_step(step_id)

    def sleep(self) -> int:
        """Leave memory until the next verb; see ``DeepSpeedStepper.sleep``."""
        return self._stepper.sleep()

    def begin_save(self, directory: Path) -> None:
        """Copy resumable state and write it behind; see ``DeepSpeedStepper.begin_save``."""
        self._stepper.begin_save(directory)

    def finish_save(self) -> None:
        """Wait for this rank's files; see ``DeepSpeedStepper.finish_save``."""
        self._stepper.finish_save()

    def load(self, directory: Path) -> None:
        """Restore what was saved; see ``DeepSpeedStepper.load``."""
        self._stepper.load(directory)

    def save_hf(self, directory: Path) -> None:
        """Write an ``AutoModelForSequenceClassification`` with tokenizer (rank 0 writes).

        Raises:
            UserError: transformers has no such class for this architecture.
        """
        save_classifier(
            self._stepper.module,
            directory,
            start=self._start,
            tokenizer_path=self._tokenizer_path,
            write=self._stepper.rank == 0,
        )
        dist.barrier()

    def close(self) -> None:
        """Leave the ranks; the process may build another critic afterwards."""
        self._stepper.close()
