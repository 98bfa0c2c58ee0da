"""A base whose linear layers are kept in 4 bits.

Owns which layers those are, and that they compute alike in training and evaluation. Refuses to
own the format, which is bitsandbytes' (NF4 with quantized constants). Invariant: no layer may
repack its weights. On processors with AVX512-BF16 bitsandbytes does so in the first evaluation
pass, and every gradient after it is wrong while the loss looks right.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_FORMAT = "nf4"


def quantized_modules(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield names and linear layers that are kept in 4 bits: all but the output head."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield name, module


@torch.no_grad()
def quantize(model: Any) -> None:
    """Replace the linear layers of a model on the CPU by frozen ones of 4 bits."""
    from bitsandbytes.nn import Linear4bit

    for name, module in list(quantized_modules(model)):
        packed = Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=module.weight.dtype,
            compress_statistics=True,
            quant_type=_FORMAT,
            device="meta",
        )
        packed.weight = _packed(module.weight)
        packed.bias = module.bias
        packed.support_avx512bf16_for_cpu = False
        packed.requires_grad_(False)
        model.set_submodule(name, packed)
    model.is_loaded_in_4bit = True  # by this peft knows


def what_4_bits_stand_for(weight: Tensor) -> Tensor:
    """Return what training sees of a weight that is kept in 4 bits, in the weight's dtype."""
    return dequantized(_packed(weight)).to(weight.dtype)


def _packed(weight: Tensor) -> Any:
    from bitsandbytes.nn import Params4bit

    parameter = Params4bit(
        weight.detach().clone().contiguous(),
        requires_grad=False,
        compress_statistics=True,
        quant_type=_FORMAT,
    )
    return parameter.to(weight.device)  # which packs it


def requantised(model: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return, for each layer that ``quantize`` would replace, what it makes of the weight."""
    return {name: what_4_bits_stand_for for name, _ in quantized_modules(model)}


def is_packed(tensor: Tensor) -> bool:
    """Whether it is a weight that is kept in 4 bits."""
    return getattr(tensor, "quant_state", None) is not None


def dequantized(weight: Tensor) -> Tensor:
    """Return what a weight that is kept in 4 bits stands for, in the dtype that it computes in."""
    from bitsandbytes.functional import dequantize_4bit

    packed: Any = weight
    dense: Tensor = dequantize_4bit(packed.data, packed.quant_state)
    return dense
