"""The fp32 state of an engine by parameter name, whatever the ZeRO stage.

Owns where DeepSpeed keeps the master weights and Adam's moments at each stage, and their
copying out and in. Refuses to own files (deepspeed_checkpoint.py). Invariant: the state that
goes out is, bit for bit, the one that goes in at any stage and number of ranks.

DeepSpeed's ``safe_get_full_*`` and ``safe_set_full_*`` are not used: before the first step,
and for sizes that the ranks do not divide, one rank raises while the others hang.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")

# (parameter, kind, start, stop) -> those elements of the flattened tensor
Read = Callable[[str, str, int, int], Tensor]


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

    Example: ``state = engine_state(engine); tensors = gather(state, owners=owners)``
    """

    optimizer: torch.optim.Optimizer
    flats: list[Tensor]  # all that the optimizer updates on this rank
    slots: dict[str, Shard | None]  # by parameter name; None: other ranks hold all of it
    shapes: dict[str, tuple[int, ...]]  # of the whole parameters, by name
    replicated: bool  # every rank holds everything
    refresh: Callable[[], None]  # makes compute weights of the masters; collective

    def numel(self, name: str) -> int:
        return torch.Size(self.shapes[name]).numel()

    def adam_step(self) -> int:
        """Updates that Adam has counted; 0 when it has no moments yet."""
        steps = {int(self.optimizer.state[f]["step"]) for f in self.flats if self._has_moments(f)}
        assert len(steps) <= 1, f"tensors of one optimizer are at steps {sorted(steps)}"
        return steps.pop() if steps else 0

    def tensor(self, slot: Shard, kind: str) -> Tensor:
        """This rank's elements of ``MASTER`` or of one of ``MOMENTS``."""
        if kind == MASTER:
            return slot.view(slot.flat)
        return slot.view(self.optimizer.state[slot.flat][kind])

    def reset_adam(self, step: int) -> None:
        """Zero moments at ``step``; at 0 that is what torch starts from."""
        fused = self.optimizer.defaults.get("fused")  # counts where it computes
        for flat in self.flats:
            if not self._has_moments(flat):
                moments = {kind: torch.zeros_like(flat) for kind in MOMENTS}
                count = torch.tensor(0.0, device=flat.device if fused else None)
                self.optimizer.state[flat] = {"step": count, **moments}
            self.optimizer.state[flat]["step"].fill_(step)
            for kind in MOMENTS:
                self.optimizer.state[flat][kind].zero_()

    def _has_moments(self, flat: Tensor) -> bool:
        return bool(self.optimizer.state.get(flat))


def gather(state: EngineState, *, owners: Mapping[str, int]) -> dict[str, Tensor]:
    """Copy whole parameters to the host memory of their owners; collective.

    Args:
        state: of the engine, between two steps.
        owners: parameter name -> the rank that gets it; the same on every rank.

    Returns:
        ``<parameter>.<kind>`` -> fp32 tensor, of the parameters that this rank owns. There
        are no moments before Adam's first update.
    """
    kinds = (MASTER, *MOMENTS) if state.adam_step() else (MASTER,)
    rank, kept = dist.get_rank(), {}
    for name in state.slots:
        for kind in kinds:
            whole = _whole(state, name, kind, owner=owners[name])
            if owners[name] == rank:
                kept[f"{name}.{kind}"] = whole.view(state.shapes[name])
    return kept


def _whole(state: EngineState, name: str, kind: str, *, owner: int) -> Tensor:
    """Return the whole parameter, flat and in host memory; on ``owner`` only."""
    slot = state.slots[name]
    local = None if slot is None else state.tensor(slot, kind)
    if state.replicated:
        assert local is not None
        return local.to("cpu", copy=True) if owner == dist.get_rank() else local
    whole = torch.zeros(state.numel(name), device=state.flats[0].device)
    if slot is not None and local is not None:
        whole[slot.start : slot.start + slot.size] = local
    # Summed as integers: bits + 0 are those bits, while -0.0 + 0.0 is 0.0.
    dist.reduce(whole.view(torch.int32), dst=owner)
    return whole.cpu() if owner == dist.get_rank() else whole


def scatter(state: EngineState, read: Read, *, adam_step: int) -> None:
    """Replace the state by what ``read`` returns for this rank's slots; collective.

    Args:
        state: of the engine, between two steps.
        read: is asked for ``MASTER``, and for ``MOMENTS`` unless ``adam_step`` is 0.
        adam_step: updates that Adam had counted.
    """
    # Padding between parameters stays zero, as in a new engine.
    state.reset_adam(adam_step)
    kinds = (MASTER, *MOMENTS) if adam_step else (MASTER,)
    for name, slot in state.slots.items():
        if slot is None:
            continue
        for kind in kinds:
            state.tensor(slot, kind).copy_(read(name, kind, slot.start, slot.start + slot.size))
    state.refresh()


def engine_state(engine: Any) -> EngineState:
    """Find the state of an engine's trainable parameters."""
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
