"""The weights of a model under ZeRO-3, read by each rank in its own part.

Owns the way from a model without weights to DeepSpeed's divided parameters. Refuses to own where a
weight lies (model/hollow.py) and the engine (deepspeed_engine.py). Invariants: a rank reads its own
part of each weight and nothing else, but for weights that have another form in the files
(``ChangedWeights``); no more than one weight, or one decoder layer of those, is whole in its
address space at a time; what the ranks hold together is, bit for bit,
what a rank that loads everything would divide.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlpost.errors import UserError
from rlpost.training.freed_memory import give_back
from rlpost.training.model.hollow import HollowModel
from rlpost.training.model.loading import TrainedModel, verify_packing
from rlpost.training.model.packed_model import PackedModel
from rlpost.training.zero.deepspeed_whole import DividedWeights, whole_in_passes

REDUCE_MAX = dist.ReduceOp.MAX
# Of a configuration, all that matters where nothing but weights is divided.
_STAGE_3 = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}


def load_in_parts(
    model: TrainedModel, *, dtype: torch.dtype, learns: bool, **options: Any
) -> PackedModel | None:
    """Load a model of which this rank reads its part of each weight alone; collective.

    Args:
        model: what is loaded.
        dtype: of the weights.
        learns: see ``divide``.
        **options: of ``TrainedModel.complete``.

    Returns:
        The module with divided weights; None: the model has to be loaded whole.

    Raises:
        UserError: the model cannot be loaded or packed.
    """
    hollow = model.load_hollow(dtype=dtype)
    if hollow is None:
        return None
    module, field = hollow.module, model.labels.field
    divide(hollow, dtype=dtype, learns=learns, field=field)
    with whole_in_passes(module):
        verify_packing(module, model.head, field=field)
    give_back(module.model.device)  # allocators keep what was whole
    return model.complete(module, dtype=dtype, weights=DividedWeights(), **options)


def divide(hollow: HollowModel, *, dtype: torch.dtype, learns: bool, field: str) -> None:
    """Give a hollow model its weights, divided among the ranks; collective.

    Args:
        hollow: on every rank the same; its module gets parameters of DeepSpeed's.
        dtype: of the weights.
        learns: there will be backward passes, for which linear layers then keep a weight's part
            and not the whole. They add a bias in another order than a model that is not divided.
        field: where the model is configured, for errors.

    Raises:
        UserError: a value is not a finite number; on every rank.
    """
    import deepspeed

    # Without a module it divides nothing by itself: it would read all of rank 0's weights.
    init = deepspeed.zero.Init(config_dict_or_path=_STAGE_3, dtype=dtype)
    if learns:
        init._enable_mem_efficient_linear()  # as it does for a module that it is given
    divided: dict[int, nn.Parameter] = {}
    broken = 0  # the number of the first that is, counted from 1
    named = list(hollow.module.named_parameters())
    # DeepSpeed later copies the parts into one buffer. Small blocks that are freed then would stay
    # with the allocator; one large block goes back to the system.
    room = torch.empty(
        sum(_part_size(old) for _, old in named), dtype=dtype, device=init.local_device
    )
    read: dict[str, Tensor] = {}  # with a weight that was asked for
    for number, (name, old) in enumerate(named, start=1):
        whole = torch.empty(old.shape, dtype=dtype, device=init.local_device)
        mine = _own_part(whole)
        if name in hollow.stored:
            start = mine.storage_offset()
            mine.copy_(hollow.stored[name].read_part(start, start + mine.numel()))
        elif name in hollow.changed:
            if name not in read:
                read |= hollow.changed[name].read(dtype=dtype)
            mine.copy_(_own_part(read.pop(name)))
        else:
            whole.copy_(old.detach())
        if not broken and mine.numel() and not torch.isfinite(mine).all():
            broken = number
        new = divided[id(old)] = nn.Parameter(whole, requires_grad=old.requires_grad)
        init._convert_to_deepspeed_param(new)
        new.partition()
        held = new.ds_tensor
        part, room = room[: held.numel()], room[held.numel() :]
        held.data = part.copy_(held)
    _refuse_broken(broken, [name for name, _ in named], field=field, device=init.local_device)
    for module in hollow.module.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = divided[id(parameter)]
        for buffer in module._buffers.values():
            if buffer is not None:
                buffer.data = buffer.data.to(init.local_device)


def _own_part(whole: Tensor) -> Tensor:
    """Return this rank's elements of a tensor, flat, as DeepSpeed divides it."""
    per_rank = _part_size(whole)
    start = min(per_rank * dist.get_rank(), whole.numel())
    return whole.view(-1)[start : start + per_rank]


def _part_size(whole: Tensor) -> int:
    """Return how many elements of a tensor each rank holds, padding of the last one included."""
    return -(-whole.numel() // dist.get_world_size())


def _refuse_broken(broken: int, names: list[str], *, field: str, device: torch.device) -> None:
    """Raises UserError on every rank if one of them found a value that is not finite."""
    first = torch.tensor(-broken if broken else -len(names) - 1, device=device)
    dist.all_reduce(first, op=REDUCE_MAX)
    if (number := -int(first)) <= len(names):
        raise UserError(
            f"{field}: {names[number - 1]} holds values that are not finite numbers, so the model "
            "was damaged when it was trained or written; use another copy of it"
        )
