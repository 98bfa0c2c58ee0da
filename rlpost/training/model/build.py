"""How transformers makes a model of a directory, with its weights or without.

Owns the options that every trained model has. Refuses to own what is made of it (heads.py) and the
weights of one that has none (hollow.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rlpost.training.model.attention import ATTENTION


def build(auto: Any, path: str, *, dtype: torch.dtype, hollow: bool, **options: Any) -> Any:
    """Return the model in ``path``, with its weights or, where it is ``hollow``, without.

    Args:
        auto: one of transformers' ``AutoModel`` classes.
        path: a model directory.
        dtype: of the weights.
        hollow: leave the parameters on the meta device.
        options: of ``from_pretrained`` alone.
    """
    options |= {"dtype": dtype, "attn_implementation": ATTENTION}
    if not hollow:
        return auto.from_pretrained(path, **options)
    import transformers

    generation_config = options.pop("generation_config", None)
    config = transformers.AutoConfig.from_pretrained(path)
    with _parameters_without_memory():
        model = auto.from_config(config, **options)
    if generation_config is not None:
        model.generation_config = generation_config
    return model


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Move every parameter of a module that is built meanwhile to the meta device.

    Not torch's own context of that device, in which buffers would have no values either.
    """
    register = nn.Module.register_parameter

    def register_hollow(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        # One that is there already is shared: a tied head must stay the same object.
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    nn.Module.register_parameter = register_hollow  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
