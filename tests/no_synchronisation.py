"""Refuses operations for which a GPU's host would wait for all work that is queued.

A host that waits cannot queue the next micro-batch, and the GPU idles. Where a result's shape or a
Python number depends on values of a tensor, torch has to read them; the same operations run on a
CPU, so it can be tested there. Copies to a device are not seen: ``training/precision.on_device``
makes those.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {
    "_local_scalar_dense",  # item, float, bool, tolist of a scalar
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "histc",
    "linalg_lstsq",
}
_INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_"}


class NoSynchronisation(TorchDispatchMode):
    """Raises AssertionError at an operation that reads values; counts the others."""

    def __init__(self) -> None:
        super().__init__()
        self.num_operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert name not in _READS, f"{func} reads values of a tensor"
        repeats = name == "repeat_interleave" and func._overloadname == "Tensor"
        assert not repeats or (kwargs or {}).get("output_size") is not None, f"{func} reads counts"
        if name in _INDEXES:
            masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{func} with a mask reads how much is true"
        self.num_operations += 1
        return func(*args, **(kwargs or {}))
