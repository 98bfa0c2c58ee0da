"""Full weights out of a sharded engine.

Owns the gathering for publication and export. Refuses to own transport, files (export.py) and
the checkpoint's names (models/naming.py). Invariant: values are in the compute dtype, on every
rank alike, and a tied ``lm_head`` is absent.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlpost.models.export import write_model
from rlpost.models.naming import Piece, Shapes
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.packed_model import PackedModel

T = TypeVar("T")

BUCKET_BYTES = 64 * 2**20


def weight_shapes(model: nn.Module) -> Shapes:
    """Name, dtype and full shape of each parameter, in ``iter_weights``'s order."""
    return [
        (name, param.dtype, tuple(getattr(param, "ds_shape", param.shape)))
        for name, param in model.named_parameters()
    ]


def iter_checkpoint(model: nn.Module, pieces: Sequence[Piece]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint of ``model``; like ``iter_weights``, in pieces' order.

    At most one piece, or one bucket of small ones, is whole at a time.
    """
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    sizes = [sum(size_bytes(named[name]) for name in piece.sources) for piece in pieces]
    for bucket in buckets(list(zip(pieces, sizes, strict=True))):
        needed = [named[name] for piece in bucket for name in piece.sources]
        with gathered(needed):
            for piece in bucket:
                tensors = {name: named[name].detach() for name in piece.sources}
                for name, tensor in piece.of(model, tensors):
                    yield name, tensor.contiguous()


def iter_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield full parameters under the module's own names, contiguous, on the compute device.

    Collective under ZeRO-3: every rank must exhaust it. A tensor may be the live weight:
    copy it before asking for the next one or training on.
    """
    named = [((name, p), size_bytes(p)) for name, p in model.named_parameters()]
    for bucket in buckets(named):
        with gathered([param for _, param in bucket]):
            for name, param in bucket:
                yield name, param.detach().contiguous()


def size_bytes(tensor: Tensor) -> int:
    """Return the bytes of the whole tensor, of which ZeRO-3 may hold a part."""
    return getattr(tensor, "ds_numel", tensor.numel()) * tensor.element_size()


def buckets(sized: Sequence[tuple[T, int]]) -> Iterator[list[T]]:
    """Group items of known bytes, in order, into buckets of at most ``BUCKET_BYTES``."""
    bucket: list[T] = []
    size = 0
    for item, bytes_here in sized:
        if bucket and size + bytes_here > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(item)
        size += bytes_here
    if bucket:
        yield bucket


def gathered(tensors: Sequence[Tensor], *, keep_changes: bool = False) -> Any:
    """Return a block in which the tensors are whole; collective at stage 3.

    What is written to them is lost, or with ``keep_changes`` rank 0's becomes that of all ranks.
    """
    params = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
    if not params:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(params, modifier_rank=0 if keep_changes else None)


def save_model(
    module: PackedModel, model: TrainedModel, directory: Path, *, dtype: torch.dtype, write: bool
) -> None:
    """Write a Hugging Face model directory with tokenizer and chat template.

    Collective; only the rank with ``write`` keeps the tensors (in host memory) and writes.

    Args:
        module: what was trained.
        model: what it was loaded from; gives all that is not weights.
        directory: where to.
        dtype: of the weights.
        write: whether this rank writes.

    Raises:
        UserError: transformers has no such class for this architecture; on every rank.
    """
    start = Path(model.path)
    shell = model.head.shell(start, dtype=dtype)
    state = _full_state(module, keep=write)
    if write:
        named = {shell.name(name): tensor for name, tensor in state.items()}
        places = shell.model.state_dict().keys()
        assert named.keys() <= places, named.keys() - places
        tokenizer = Path(model.tokenizer_path)
        write_model(shell.model, named, directory, start=start, tokenizer_path=tokenizer)


def _full_state(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    if not keep:
        for _ in iter_weights(model):
            pass
        return {}
    state = {name: tensor.cpu().clone() for name, tensor in iter_weights(model)}
    params = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return state | {k: v.cpu() for k, v in model.state_dict().items() if k not in params}
