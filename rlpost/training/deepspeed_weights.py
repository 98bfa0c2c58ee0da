"""Full weights out of a sharded engine.

Owns the gathering for publication and export. Refuses to own transport. Invariant: names,
order and values are those of the Hugging Face model's ``named_parameters()`` (so a tied
``lm_head`` is absent), in the compute dtype, on every rank alike.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BUCKET_BYTES = 64 * 2**20

Shapes = list[tuple[str, torch.dtype, tuple[int, ...]]]


def weight_shapes(model: nn.Module) -> Shapes:
    """Name, dtype and full shape of each parameter, in ``iter_weights``'s order."""
    return [
        (name, param.dtype, tuple(getattr(param, "ds_shape", param.shape)))
        for name, param in model.named_parameters()
    ]


def iter_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield full tensors, contiguous, on the compute device.

    Collective under ZeRO-3: every rank must exhaust it. A tensor may be the live weight:
    copy it before asking for the next one or training on.
    """
    for bucket in _buckets(list(model.named_parameters())):
        with _gathered([param for _, param in bucket]):
            for name, param in bucket:
                yield name, param.detach().contiguous()


def _buckets(
    named: Sequence[tuple[str, nn.Parameter]],
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    bucket: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, param in named:
        bytes_here = getattr(param, "ds_numel", param.numel()) * param.element_size()
        if bucket and size + bytes_here > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, param))
        size += bytes_here
    if bucket:
        yield bucket


def _gathered(params: list[nn.Parameter]) -> Any:
    if not any(hasattr(param, "ds_id") for param in params):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(params)


def save_pretrained(model: nn.Module, directory: Path, *, tokenizer_path: str, write: bool) -> None:
    """Write a ``save_pretrained`` directory with tokenizer and chat template.

    Collective; only the rank with ``write`` keeps the tensors (in host memory) and writes.
    """
    if not write:
        for _ in iter_weights(model):
            pass
        return
    from transformers import AutoTokenizer

    state = {name: tensor.cpu().clone() for name, tensor in iter_weights(model)}
    params = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state |= {k: v.cpu() for k, v in model.state_dict().items() if k not in params}
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, state_dict=state)
    AutoTokenizer.from_pretrained(tokenizer_path).save_pretrained(directory)
