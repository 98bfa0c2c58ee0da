"""An exact copy of what a model's kernels hold, to go back to while a version is undecided.

Owns both forms of it. What kernels compute with lies in the storages of parameters and buffers,
which a reload overwrites in place, and in objects that a layer refers to: on a CPU oneDNN and the
mixtures' kernels pack weights into objects of their own, which a reload replaces. So a way back is
a copy of the storages, by address, and the objects themselves. Refuses to own when a version is
decided (bus.py) and the reload (vllm_reload.py). Invariant: after ``restore`` every kernel reads
the bytes and refers to the objects that it did when the copy was taken.

On a CPU the copy is taken when a reload begins and let go when the version is decided. On a GPU,
where there are no packed objects, the shard is copied to pinned memory behind each commit
(cuda_pinned.py), so that a push waits for nothing; before the first commit there is no way back.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rlpost.training.parking import side_by_side

_TABLES = ("_parameters", "_buffers", "_non_persistent_buffers_set")


class WayBack(Protocol):
    """What an engine keeps of the committed version."""

    def take(self, model: nn.Module) -> None:
        """A reload begins."""

    def committed(self, model: nn.Module) -> None:
        """What the model holds is what to go back to from now on."""

    def restore(self, model: nn.Module) -> bool:
        """Go back; returns whether that was possible."""


def way_back_for(device: torch.device) -> WayBack:
    """Return the way back in the form that the device needs."""
    if device.type == "cpu":
        return CopyWhileUndecided()
    from rlpost.weights.cuda_pinned import PinnedMemory

    return CopyBehindCommit(PinnedMemory())


class CopyWhileUndecided:
    """See the module: the form for a CPU."""

    def __init__(self) -> None:
        self._objects: Objects | None = None
        self._copies: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        self._objects = Objects(model)
        self._copies = [(bytes_, bytes_.clone()) for bytes_ in storages(model)]

    def committed(self, model: nn.Module) -> None:
        self._objects, self._copies = None, []

    @torch.no_grad()
    def restore(self, model: nn.Module) -> bool:
        objects, copies = self._objects, self._copies
        self._objects, self._copies = None, []
        if objects is None:
            return False
        objects.restore()
        for bytes_, copy in copies:
            bytes_.copy_(copy)
        return True


class SideMemory(Protocol):
    """Where a GPU's storages are copied to while kernels go on."""

    def room(self, size_bytes: int) -> list[Tensor]:
        """Return pieces of one size, of uint8, in which a copy of so many bytes stays.

        Raises:
            NotPinned: the system refused.
        """

    def copy_out(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Begin to copy each first tensor into its second, behind what was begun before."""

    def settle(self) -> None:
        """Wait until those copies are done."""

    def copy_back(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copy each second tensor into its first; returns when it is done."""


class CopyBehindCommit:
    """See the module: the form for a GPU.

    Args:
        memory: where the copy lies.
    """

    def __init__(self, memory: SideMemory) -> None:
        self._memory = memory
        self._pieces: list[Tensor] = []
        self._sizes: list[int] = []  # of the storages that were copied, end to end

    def take(self, model: nn.Module) -> None:
        self._memory.settle()

    @torch.no_grad()
    def committed(self, model: nn.Module) -> None:
        sources = storages(model)
        sizes = [each.numel() for each in sources]
        if sum(sizes) > sum(each.numel() for each in self._pieces):
            self._pieces, self._sizes = [], []  # the old ones go first; without new ones is no way
            self._pieces = self._memory.room(sum(sizes))
        self._sizes = sizes
        self._memory.copy_out([(s, copy) for copy, s in side_by_side(self._pieces, sources)])

    @torch.no_grad()
    def restore(self, model: nn.Module) -> bool:
        if not self._sizes:
            return False
        targets = storages(model)
        assert [each.numel() for each in targets] == self._sizes, "a reload has replaced a storage"
        self._memory.settle()
        self._memory.copy_back([(t, copy) for copy, t in side_by_side(self._pieces, targets)])
        return True


class Objects:
    """What the modules of a model, and how they compute, refer to; not what lies in storages."""

    def __init__(self, model: nn.Module) -> None:
        methods = [getattr(module, "quant_method", None) for module in model.modules()]
        owners = [*model.modules(), *(m for m in methods if hasattr(m, "__dict__"))]
        unique = {id(owner): owner for owner in owners}.values()
        self._attributes = [(owner, _attributes(owner)) for owner in unique]
        # Packing may give a parameter another storage.
        self._data = [(tensor, tensor.data) for tensor in _tensors(model)]

    def restore(self) -> None:
        """Have everything refer to what it did."""
        for owner, attributes in self._attributes:
            vars(owner).clear()
            vars(owner).update(attributes)
        for tensor, data in self._data:
            tensor.data = data


def _attributes(owner: Any) -> dict[str, Any]:
    own = dict(vars(owner))
    tables = {name: own[name].copy() for name in _TABLES if name in own}
    return own | tables


def _tensors(model: nn.Module) -> list[Tensor]:
    return [
        tensor
        for module in model.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None and not tensor.is_meta
    ]


def storages(model: nn.Module) -> list[Tensor]:
    """Return the bytes of each storage of the parameters and buffers of a model, once."""
    found: dict[int, Tensor] = {}
    for tensor in _tensors(model):
        storage = tensor.untyped_storage()
        if storage.nbytes():
            view = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            found.setdefault(storage.data_ptr(), view)
    return list(found.values())
