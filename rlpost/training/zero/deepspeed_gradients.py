"""The gradient sum of a lone rank at stage 2.

Owns how gradients get from the backward pass into the float32 partition that DeepSpeed's step
reads, and in which pieces their norm is taken. Refuses to own clipping and the update. Invariant:
the sum has the bits that DeepSpeed's own path gives (a zero may have another sign).

DeepSpeed treats one rank like many: it copies every gradient into a bucket, reduces the bucket
with itself, and adds a widened copy of it to a partition of zeros. Each of these is as large as
the model and new in every pass, and on a CPU the pages of new memory cost ten times the copy.
"""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

NORM_VALUES = 1 << 16  # whose float64 copy, 512 KiB, stays in a core's cache


class LoneGradients:
    """Replaces the reduction of ``optimizer``, a ``DeepSpeedZeroOptimizer``.

    The sums stay in memory between steps, as a plan of stage 2 says, until ``release``.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._groups = [
            optimizer._build_compact_grad_partition_buffer(i)
            for i in range(len(optimizer.bit16_groups))
        ]
        self._sums: dict[int, Tensor] = {}  # by id of the parameter, with its shape
        for params, group in zip(optimizer.params_in_partition, self._groups, strict=True):
            sums = [part for part in group if not getattr(part, "_zero_padding", False)]
            self._sums |= {id(p): s for p, s in zip(params, sums, strict=True)}
        self._missing: set[int] = set()  # parameters without a gradient so far
        self._finish = optimizer.independent_gradient_partition_epilogue
        optimizer._use_compact_grad_partition_buffer = lambda group: True
        optimizer.reduce_ready_partitions_and_remove_grads = self._add
        optimizer.independent_gradient_partition_epilogue = self._end_pass
        self._norm_of = optimizer.get_grad_norm_direct
        if self._groups[0].flat_partition.device.type == "cpu":
            optimizer.get_grad_norm_direct = self._norm_by_pieces

    @classmethod
    def of(cls, engine: Any) -> "LoneGradients | None":
        """Take over the sum of an engine at stage 2 with one rank; None: of any other."""
        alone = engine.zero_optimization_stage() == 2 and dist.get_world_size() == 1
        return cls(engine.optimizer) if alone else None

    def release(self) -> None:
        """Give the memory of the sums back until the next gradient comes."""
        for group in self._groups:
            group.flat_partition.untyped_storage().resize_(0)

    @torch.no_grad()
    def _add(self, param: Any, group: int) -> None:
        """Take the gradient that the backward pass has just finished."""
        if self._optimizer.averaged_gradients.get(group) is None:
            self._begin(group)
        total = self._sums[id(param)]
        if id(param) in self._missing:
            self._missing.remove(id(param))
            total.copy_(param.grad)
        else:
            total.add_(param.grad)
        param.grad = None

    def _begin(self, group: int) -> None:
        """Make the sum ready for the first gradient of a step."""
        flat = self._groups[group].flat_partition
        if not flat.untyped_storage().nbytes():  # released; resizing would always allocate
            flat.untyped_storage().resize_(flat.nbytes)
            flat.zero_()  # the padding between parameters is part of the norm
        self._optimizer.averaged_gradients[group] = self._groups[group]
        self._missing |= {id(p) for p in self._optimizer.params_in_partition[group]}

    def _end_pass(self) -> None:
        self._finish()
        if self._optimizer.is_gradient_accumulation_boundary():
            for key in self._missing:  # what is there belongs to an earlier step
                self._sums[key].zero_()
            self._missing.clear()

    def _norm_by_pieces(
        self, gradients: Sequence[Tensor], params: Sequence[Any], norm_type: float = 2
    ) -> Tensor:
        """Return the norm of all: DeepSpeed copies what it takes a norm of to float64."""
        pieces = [
            piece
            for gradient in gradients
            if not getattr(gradient, "_zero_padding", False)
            for piece in gradient.reshape(-1).split(NORM_VALUES)
        ]
        return self._norm_of(pieces, repeat(params[0]), norm_type)
