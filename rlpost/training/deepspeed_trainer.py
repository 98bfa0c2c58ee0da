"""One rank of the policy trainer: the verbs around a DeepSpeed ZeRO engine.

Owns the policy's loss of one micro-batch, its log-probs and its export. Refuses to own the
stepping (deepspeed_stepper.py), Ray (cluster/), packing, the loss and denominators.
Invariant: the gradient of one optimizer batch is that of ``sum(loss_weight_R * value_R)``
over all micro-batches and ranks, whatever the split.

Every verb is collective: all ranks call it in the same order, with equally many
micro-batches.

Legend: R response tokens of one micro-batch.
"""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.losses import PolicyLossInputs
from rlpost.algorithms.mismatch import mismatch
from rlpost.algorithms.sequences import sequence_heads
from rlpost.models.naming import Shapes, pieces_of
from rlpost.training.batch import TokenBatch
from rlpost.training.deepspeed_stepper import POLICY, DeepSpeedStepper, Rank
from rlpost.training.deepspeed_weights import iter_checkpoint, save_pretrained, weight_shapes
from rlpost.training.flops import PolicyCost, peak_flops
from rlpost.training.objective import Objective
from rlpost.training.policy import Policy, PolicyInputs, load_policy
from rlpost.training.scoring import scoring_batch
from rlpost.training.settings import TrainerConfig


class DeepSpeedTrainer:
    """Example::

    trainer = DeepSpeedTrainer(cfg, model_path=path, rank=0, world_size=1,
                               master_address="127.0.0.1", master_port=29500, seed=0)
    tally = trainer.forward_backward(batches, objective=objective, temperature=1.0)
    metrics = merge([tally]).metrics() | trainer.optim_step(1)
    """

    def __init__(
        self,
        cfg: TrainerConfig,
        *,
        model_path: str,
        rank: int,
        world_size: int,
        master_address: str,
        master_port: int,
        seed: int,
    ) -> None:
        """Join the ranks, load the model and build the engine.

        Raises:
            UserError: the model cannot be loaded or its architecture cannot be packed.
        """
        self.cfg = cfg
        self._model_path = model_path

        def load(dtype: torch.dtype) -> Policy:
            return load_policy(
                model_path,
                dtype=dtype,
                logprob_chunk=cfg.logprob_chunk,
                gradient_checkpointing=cfg.gradient_checkpointing,
            )

        self._stepper = DeepSpeedStepper(
            cfg,
            role=POLICY,
            place=Rank(
                rank=rank,
                world_size=world_size,
                master_address=master_address,
                master_port=master_port,
            ),
            seed=seed,
            load=load,
        )
        self.dtype = self._stepper.dtype
        self._shapes = weight_shapes(self._stepper.module.model)
        self._pieces = pieces_of(self._stepper.module.model)
        self._cost = _cost(self._stepper.module.model, self._shapes)
        self._peak_flops = _peak_flops(self._stepper, self._shapes)
        self._flops = self._busy_s = 0.0  # since the last optimizer step

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for _, _, shape in self._shapes)

    def weight_shapes(self) -> Shapes:
        """Name, dtype and shape of every tensor ``iter_weights`` yields, in its order."""
        return [target for piece in self._pieces for target in piece.targets]

    def forward_backward(
        self, batches: Sequence[TokenBatch], *, objective: Objective, temperature: float
    ) -> Tally:
        """Accumulate the gradient of one optimizer batch; this rank's share of it.

        Args:
            batches: this rank's micro-batches, as many as on every other rank.
            objective: gives the loss of each token.
            temperature: of the sampler; divides the logits.

        Returns:
            This rank's sums (``algorithms.diagnostics.merge`` combines ranks): the loss's
            diagnostics over tokens of positive weight, ``actor/loss``, the mismatch with the
            rollout log-probs, ``perf/packed_tokens`` and ``perf/trained_tokens``.
        """
        _ = self._stepper.engine  # waking up is not counted as work
        start_s = time.perf_counter()
        tally = self._stepper.accumulate(
            batches,
            loss_of=lambda batch, tally: self._loss(batch, objective, temperature, tally),
        )
        self._busy_s += time.perf_counter() - start_s
        self._flops += self._cost.training_flops(batches)
        return tally

    def _loss(
        self, batch: TokenBatch, objective: Objective, temperature: float, tally: Tally
    ) -> Tensor:
        policy_logprobs_R, entropy_R = self._stepper.engine(
            PolicyInputs.of(batch, device=self._stepper.device),
            temperature=temperature,
            entropy_gradient=objective.entropy_coefficient != 0,
        )
        rollout_logprobs_R = self._stepper.to_device(batch.rollout_logprobs_R)
        proximal_R, selected_R, ref_R = (
            None if array is None else self._stepper.to_device(array)
            for array in (batch.proximal_logprobs_R, batch.selected_R, batch.ref_logprobs_R)
        )
        weight_R = self._stepper.to_device(batch.loss_weight_R)
        counted_R = weight_R > 0
        # A masked token may hold anything, and inf * 0 is nan, forwards as well as backwards.
        advantages_R = self._stepper.to_device(batch.advantages_R).masked_fill(~counted_R, 0.0)
        inputs = PolicyLossInputs(
            policy_logprobs_R=policy_logprobs_R,
            anchor_logprobs_R=rollout_logprobs_R if proximal_R is None else proximal_R,
            rollout_logprobs_R=rollout_logprobs_R,
            advantages_R=advantages_R,
            sequence_R=self._stepper.to_device(batch.sequence_R),
            counted_R=counted_R,
            selected_R=selected_R,
            entropy_R=entropy_R,
        )
        result = objective.per_token(inputs, ref_logprobs_R=ref_R)
        # The sum stays connected to the graph even when every weight is 0: collectives of all
        # ranks must match.
        loss = (weight_R * result.values_R.masked_fill(~counted_R, 0.0)).sum()
        tally.add(result.diagnostics, counted_R=counted_R)
        heads_R = sequence_heads(sequence_R=inputs.sequence_R, counted_R=counted_R)
        tally.add(result.sequence_diagnostics, counted_R=heads_R)
        tally.add(
            mismatch(policy_logprobs_R, rollout_logprobs_R=rollout_logprobs_R), counted_R=counted_R
        )
        tally.add_total("actor/loss", loss)
        if not batch.is_dummy:
            tally.add_total("perf/packed_tokens", torch.tensor(batch.num_tokens))
            tally.add_total("perf/trained_tokens", counted_R.sum())
        return loss

    def optim_step(self, step_id: int) -> dict[str, float]:
        """Apply the accumulated gradient once; see ``DeepSpeedStepper.optim_step``.

        Adds ``perf/mfu/actor``, of this rank, where the peak of its device is known.
        """
        start_s = time.perf_counter()
        metrics = self._stepper.optim_step(step_id)
        if self._peak_flops is not None:
            torch.cuda.synchronize()  # the update itself is only queued
        self._busy_s += time.perf_counter() - start_s
        if self._flops and self._peak_flops is not None:
            metrics["perf/mfu/actor"] = self._flops / self._busy_s / self._peak_flops
        self._flops = self._busy_s = 0.0
        return metrics

    @torch.no_grad()
    def logprobs(self, batches: Sequence[TokenBatch], temperature: float) -> list[np.ndarray]:
        """Log-probs (nats, float32, (R,)) of every micro-batch's response tokens."""
        self._stepper.check_equal(len(batches), what="micro-batches")
        results = []
        for batch in batches:
            inputs = PolicyInputs.of(batch, device=self._stepper.device)
            logprobs_R, _ = self._stepper.engine(inputs, temperature=temperature)
            results.append(logprobs_R.cpu().numpy())
        return results

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob at temperature 1 of each token after the first, per sequence.

        Every rank gets the same sequences and returns the same numbers.
        """
        batch = scoring_batch([(ids[:1], [ids[1:]]) for ids in sequences])
        (logprobs_R,) = self.logprobs([batch], 1.0)
        cuts = np.cumsum([len(ids) - 1 for ids in sequences])[:-1]
        return [part.tolist() for part in np.split(logprobs_R, cuts)]

    def iter_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full weights in the form of a Hugging Face checkpoint; collective."""
        return iter_checkpoint(self._stepper.module.model, self._pieces)

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
        """Write the weights in ``save_pretrained`` layout with tokenizer (rank 0 writes)."""
        save_pretrained(
            self._stepper.module.model,
            directory,
            start=Path(self._model_path),
            write=self._stepper.rank == 0,
        )
        dist.barrier()

    def close(self) -> None:
        """Leave the ranks; the process may build another trainer afterwards."""
        self._stepper.close()


def _cost(model: Any, shapes: Shapes) -> PolicyCost:
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    vocabulary = config.vocab_size * config.hidden_size
    matrices = sum(math.prod(shape) for _, _, shape in shapes if len(shape) > 1)
    tied = getattr(config, "tie_word_embeddings", False)
    return PolicyCost(
        body=matrices - vocabulary * (1 if tied else 2),
        head=vocabulary,
        attention=config.num_hidden_layers * heads * head_dim,
    )


def _peak_flops(stepper: DeepSpeedStepper, shapes: Shapes) -> float | None:
    if stepper.device.type != "cuda" or stepper.dtype is not torch.bfloat16:
        return None
    if any("experts" in name for name, _, _ in shapes):
        return None  # a token meets some of them only: the count would be too high
    return peak_flops(torch.cuda.get_device_name(stepper.device))
