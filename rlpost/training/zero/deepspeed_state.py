"""The fp32 state of an engine by parameter name, whatever the ZeRO stage.

Owns where DeepSpeed keeps the master weights and what an optimizer keeps of each parameter at each
stage, and their copying out and in. Refuses to own what is kept (optimizers/base.py) and files
(deepspeed_checkpoint.py). Invariant: the state that goes out is, bit for bit, the one that goes in
at any stage and number of ranks that the optimizer supports.

DeepSpeed's ``safe_get_full_*`` and ``safe_set_full_*`` are not used: before the first step,
and for sizes that the ranks do not divide, one rank raises while the others hang.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlpost.training.optimizers.base import COUNT, Optimizer, kept
from rlpost.training.zero.shards import TensorPart

MASTER = "master"

# (parameter, kind, (start, stop)) -> those elements of the flattened tensor; None: all of it
Read = Callable[[str, str, tuple[int, int] | None], Tensor]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Where this rank keeps elements ``[start, start + size)`` of a flattened parameter.

    Example: ``Shard(start=0, size=64, flat=flat, offset=128)`` of a parameter of 96 elements
    whose last 32 are on the next rank.
    """

    start: int
    size: int
    flat: Tensor  # one of the tensors that the optimizer updates
    offset: int  # of the first element in ``flat``

    def view(self, tensor: Tensor) -> Tensor:
        """The shard's elements of ``flat`` or of a moment, which has its shape."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.size)


@dataclass(frozen=True, kw_only=True)
class EngineState:
    """This rank's part of the state, as live tensors.

    Example: ``state = engine_state(engine); tensors, parts = copy_out(state, owned=names)``
    """

    optimizer: torch.optim.Optimizer
    kind: Optimizer  # says what it keeps
    flats: list[Tensor]  # all that the optimizer updates on this rank
    slots: dict[str, Shard | None]  # by parameter name; None: other ranks hold all of it
    shapes: dict[str, tuple[int, ...]]  # of the whole parameters, by name
    replicated: bool  # every rank holds everything
    refresh: Callable[[], None]  # makes compute weights of the masters; collective

    def numel(self, name: str) -> int:
        return torch.Size(self.shapes[name]).numel()

    def count(self) -> int:
        """Updates that the optimizer has counted; 0 when it keeps nothing yet."""
        steps = {int(self.optimizer.state[f][COUNT]) for f in self.flats if self._begun(f)}
        assert len(steps) <= 1, f"tensors of one optimizer are at steps {sorted(steps)}"
        return steps.pop() if steps else 0

    def spec(self, name: str) -> dict[str, Tensor]:
        """Return what is kept of a whole parameter beside its master, without data, by kind."""
        slot = self.slots[name]
        whole = torch.empty(self.shapes[name], device="meta")
        return kept(self.kind, whole, {} if slot is None else self._group(slot.flat))

    def tensor(self, slot: Shard, kind: str) -> Tensor:
        """This rank's elements of ``MASTER``, or of what is kept beside it."""
        return self.cut(slot, kind, self.source(slot, kind))

    def source(self, slot: Shard, kind: str) -> Tensor:
        """Return the tensor in which the elements are, with others."""
        found: Tensor = slot.flat if kind == MASTER else self.optimizer.state[slot.flat][kind]
        return found

    def cut(self, slot: Shard, kind: str, source: Tensor) -> Tensor:
        """Return the slot's elements of a ``source``, or of a copy of one."""
        return slot.view(source) if kind == MASTER or self.kind.elementwise else source

    def reset(self, step: int) -> None:
        """Let all that is kept be zeros at ``step``; at 0 that is what an optimizer starts from."""
        for flat in self.flats:
            self.optimizer.state[flat] = self.kind.state(flat, self._group(flat), step=step)

    def complete(self) -> None:
        """Have something kept of every parameter, where a gradient has come to any."""
        step = self.count()
        for flat in self.flats if step else ():
            if not self._begun(flat):
                self.optimizer.state[flat] = self.kind.state(flat, self._group(flat), step=step)

    def _group(self, flat: Tensor) -> dict[str, Any]:
        return next(
            (g for g in self.optimizer.param_groups if any(p is flat for p in g["params"])), {}
        )

    def _begun(self, flat: Tensor) -> bool:
        return bool(self.optimizer.state.get(flat))


def kept_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the size of the tensors that an optimizer keeps in this process."""
    found = {
        id(each): each.nbytes
        for state in optimizer.state.values()
        for each in state.values()
        if isinstance(each, Tensor)
    }
    return sum(found.values())


def copy_out(
    state: EngineState, *, owned: Container[str]
) -> tuple[dict[str, Tensor], dict[str, TensorPart]]:
    """Copy what this rank holds to host memory; not collective.

    The tensors are views into one copy of each tensor that the optimizer updates: few large copies
    instead of many small ones.

    Args:
        state: of the engine, between two steps.
        owned: parameters that this rank copies where every rank holds everything; together the
            ranks own each once.

    Returns:
        ``<parameter>.<kind>`` -> tensor: ``MASTER`` in float32, and once there was an update what
        the optimizer keeps. And of those that are parts, where they belong.
    """
    state.complete()
    begun = state.count() > 0
    copies: dict[int, Tensor] = {}
    tensors, parts = {}, {}
    for name, slot in state.slots.items():
        if slot is None or (state.replicated and name not in owned):
            continue
        spec = state.spec(name) if begun else {}
        for kind in (MASTER, *spec):
            source = state.source(slot, kind)
            if id(source) not in copies:
                copies[id(source)] = source.detach().to("cpu", copy=True)
            mine = state.cut(slot, kind, copies[id(source)])
            shape = torch.Size(spec[kind].shape if kind in spec else state.shapes[name])
            whole = mine.numel() == shape.numel()
            tensors[f"{name}.{kind}"] = mine.view(shape) if whole else mine
            if not whole:
                parts[f"{name}.{kind}"] = TensorPart(start=slot.start, shape=tuple(shape))
    return tensors, parts


def scatter(state: EngineState, read: Read, *, count: int) -> None:
    """Replace the state by what ``read`` returns for this rank's slots; collective.

    Args:
        state: of the engine, between two steps.
        read: is asked for ``MASTER``, and unless ``count`` is 0 for what the optimizer keeps.
        count: updates that the optimizer had counted.
    """
    # Padding between parameters stays zero, as in a new engine.
    state.reset(count)
    for name, slot in state.slots.items():
        if slot is None:
            continue
        for kind in (MASTER, *(state.spec(name) if count else ())):
            cut = kind == MASTER or state.kind.elementwise
            part = read(name, kind, (slot.start, slot.start + slot.size) if cut else None)
            mine = state.tensor(slot, kind)
            mine.copy_(part.view(mine.shape))
    state.refresh()


@torch.no_grad()
def multiply(state: EngineState, factors: Mapping[str, Tensor]) -> None:
    """Multiply masters, and with them the weights, element by element; collective."""
    for name, factor in factors.items():
        slot = state.slots[name]
        if slot is not None:
            part = factor.reshape(-1)[slot.start : slot.start + slot.size]
            state.tensor(slot, MASTER).mul_(part)
    state.refresh()


def engine_state(engine: Any, kind: Optimizer) -> EngineState:
    """Find the state of an engine's trainable parameters, which ``kind`` updates."""
    named = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    stage, ranks = engine.zero_optimization_stage(), dist.get_world_size()
    if stage == 3:
        flats, slots, refresh = _of_stage_3(engine.optimizer, named)
    elif stage > 0:
        flats, slots, refresh = _of_stages_1_and_2(engine.optimizer, named)
    else:
        flats, slots, refresh = _of_stage_0(engine.optimizer, named)
    return EngineState(
        optimizer=engine.basic_optimizer,
        kind=kind,
        flats=flats,
        slots=slots,
        shapes={name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in named.items()},
        replicated=stage == 0 or ranks == 1,
        refresh=refresh,
    )


_Layout = tuple[list[Tensor], dict[str, Shard | None], Callable[[], None]]


def _of_stage_0(optimizer: Any, named: Mapping[str, Any]) -> _Layout:
    if hasattr(optimizer, "fp32_groups"):  # bfloat16; in float32 the weights are the masters
        groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        masters = {p: m for group, of_it in groups for p, m in zip(group, of_it, strict=True)}
    else:
        masters = {param: param for param in named.values()}
    slots: dict[str, Shard | None] = {
        name: Shard(start=0, size=p.numel(), flat=masters[p], offset=0) for name, p in named.items()
    }

    def refresh() -> None:
        for param, master in masters.items():
            param.data.copy_(master.data)

    return list(masters.values()), slots, refresh


def _of_stages_1_and_2(optimizer: Any, named: Mapping[str, Any]) -> _Layout:
    # The second name is BF16_Optimizer's, which stage 1 uses in bfloat16.
    flats = getattr(optimizer, "single_partition_of_fp32_groups", None)
    flats = optimizer.fp32_groups_flat_partition if flats is None else flats
    slots: dict[str, Shard | None] = {}
    for name, param in named.items():
        mapping = param._hp_mapping
        slots[name] = None
        if mapping is not None:
            slots[name] = Shard(
                start=mapping.lp_fragment_address.start,
                size=mapping.lp_fragment_address.numel,
                flat=flats[mapping.param_group_index],
                offset=mapping.hp_fragment_address.start,
            )
    return list(flats), slots, optimizer.update_lp_params


def _of_stage_3(optimizer: Any, named: Mapping[str, Any]) -> _Layout:
    flats = list(optimizer.fp32_partitioned_groups_flat)
    slots: dict[str, Shard | None] = {}
    for name, param in named.items():
        group, offset, per_rank = optimizer.grad_position[optimizer.get_param_id(param)]
        start = per_rank * dist.get_rank()
        # The last ranks' parts are padded, or nothing but padding.
        size = min(per_rank, param.ds_numel - start)
        slot = Shard(start=start, size=size, flat=flats[group], offset=offset)
        slots[name] = slot if size > 0 else None

    def refresh() -> None:
        # Small parameters stay whole between steps: given up before, gathered again after.
        optimizer.checkpoint_event_prologue()
        for group in range(len(flats)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()

    return flats, slots, refresh
