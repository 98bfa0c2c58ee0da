"""The updates of one rank: at most one per step id.

Owns which step was the last, whether gradients wait for the next, and the count of gradients that
were not finite. Refuses to own the passes that make gradients (deepspeed_passes.py). Invariants: an
update happens at most once per step id; a non-finite gradient changes no weight at any stage.
"""

import math
from typing import Any

from rlpost.errors import RunFailed
from rlpost.training.model.loading import Labels
from rlpost.training.schedule import lr_at
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero import deepspeed_engine as ds
from rlpost.training.zero.deepspeed_adapter_steps import AdapterSteps
from rlpost.training.zero.deepspeed_checkpoint import StepperProgress
from rlpost.training.zero.deepspeed_usage import Usage


class Updates:
    """Of an engine that is awake.

    Args:
        engine: DeepSpeed's.
        cfg: the options of what is trained.
        labels: how its metrics and options are called.
        adapter: what the module's adapter does after them.
        usage: counts their work.

    Attributes:
        waiting: there are gradients which the next update consumes.
    """

    def __init__(
        self,
        engine: Any,
        cfg: TrainerConfig,
        *,
        labels: Labels,
        adapter: AdapterSteps,
        usage: Usage,
    ) -> None:
        self._engine, self._cfg, self._labels = engine, cfg, labels
        self._adapter, self._usage = adapter, usage
        self.waiting = False
        self.progress = StepperProgress(step_id=0, step_result={}, nonfinite_in_row=0)

    def apply(self, step_id: int) -> dict[str, float]:
        """Update as step ``step_id`` (1-based; gaps are allowed); returns its metrics.

        Raises:
            RunFailed: ``stop_after_nonfinite`` updates in a row had non-finite gradients.
        """
        last = self.progress
        assert step_id >= 1 and step_id >= last.step_id, (
            f"step {step_id} asked for after step {last.step_id}"
        )
        if step_id == last.step_id:
            assert not self.waiting, f"step {step_id} is done, but new gradients are waiting"
            return last.step_result
        assert self.waiting, f"step {step_id}: forward_backward has not run"
        lr = lr_at(step_id, self._cfg)
        ds.set_lr(self._engine, lr)
        with self._usage.busy():
            grad_norm, applied = ds.update(self._engine)
        of_adapter = self._adapter.after_update(step_id, applied=applied)
        self.waiting = False
        self.progress = StepperProgress(
            step_id=step_id,
            step_result=self._result(lr, grad_norm, applied=applied) | of_adapter,
            nonfinite_in_row=0 if applied else last.nonfinite_in_row + 1,
        )
        self._stop_if_hopeless()
        return self.progress.step_result

    def _result(self, lr: float, grad_norm: float, *, applied: bool) -> dict[str, float]:
        prefix = self._labels.metrics
        result = {f"{prefix}/lr": lr, f"{prefix}/skipped_update": float(not applied)}
        if math.isfinite(grad_norm):
            result[f"{prefix}/grad_norm"] = grad_norm
        if (largest := ds.largest_lr(self._engine)) != lr:
            result[f"{prefix}/largest_lr"] = largest
        return result | self._usage.metrics()

    def _stop_if_hopeless(self) -> None:
        in_row = self.progress.nonfinite_in_row
        if in_row >= self._cfg.stop_after_nonfinite:
            raise RunFailed(
                f"the gradient was not finite in {in_row} steps in a row, the last being step "
                f"{self.progress.step_id}; no weight was changed by them. Lower "
                f"{self._labels.options}.lr, or resume from an earlier checkpoint"
            )
