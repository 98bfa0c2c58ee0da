"""A frozen model under ZeRO-3: each rank holds a part of its weights, and a layer is whole in use.

Owns DeepSpeed's engine of such a model, which has no optimizer, and its release. Refuses to own who
asks it: a group of its own (deepspeed_scorer.py), or the rank of a student
(training/model/divergence_head.py). Invariants: all ranks make equally many passes, in one order;
between two passes nothing but small weights is whole, and of a model that another one asks its
output head.

Decision 0053 says why this is DeepSpeed's engine and not ``whole_in_passes``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rlpost.training.freed_memory import give_back, returned_when_freed
from rlpost.training.model.loading import TrainedModel, load_whole
from rlpost.training.model.packed_model import PackedModel
from rlpost.training.precision import compute_device, has_cuda
from rlpost.training.zero import deepspeed_engine as ds
from rlpost.training.zero.deepspeed_layers import gather_by_layer, largest_layer
from rlpost.training.zero.deepspeed_parts import load_in_parts


def divided_engine(
    model: TrainedModel,
    *,
    dtype: torch.dtype,
    wrap: Callable[[PackedModel], nn.Module] = lambda module: module,
) -> Any:
    """Load a frozen model, of which this rank holds a part, and build its engine; collective.

    Args:
        model: what is loaded.
        dtype: of the weights.
        wrap: makes of it what the engine is called like; its ``model`` is the packed one's.

    Raises:
        UserError: the model cannot be loaded or packed.
    """
    import deepspeed

    with returned_when_freed():
        module = load_in_parts(model, dtype=dtype, learns=False)
        if module is None:
            module = model.load(dtype=dtype)
        module = wrap(module.eval().requires_grad_(False))
        config = ds.frozen_config(
            dtype=dtype,
            hidden_size=module.model.config.get_text_config().hidden_size,
            on_gpu=has_cuda(),
            largest_layer=largest_layer(module),
        )
        engine, *_ = deepspeed.initialize(model=module, config=config)
        gather_by_layer(engine)
        give_back(compute_device())
    return engine


def frozen_beside(model: TrainedModel, *, dtype: torch.dtype) -> Any:
    """Return a frozen model that another one asks in each of its passes; collective.

    It is a ``PackedModel``, or the engine around one where the other's ranks divide its weights.

    Raises:
        UserError: the model cannot be loaded or packed.
    """
    if not model.is_divided:
        return load_whole(model, dtype=dtype)
    engine = divided_engine(model, dtype=dtype)
    _keep_head_whole(engine)
    return engine


def _keep_head_whole(engine: Any) -> None:
    """Have the output head be whole from the end of a pass to the next one.

    Whoever asks calls it once for each chunk of tokens, in the backward pass again, and ranks have
    different numbers of chunks.
    """
    weights = list(engine.module.model.get_output_embeddings().parameters())
    for each in weights:
        each.ds_persist = True

    def gather(*_: Any) -> None:
        missing = [each for each in weights if each.ds_status.name == "NOT_AVAILABLE"]
        if missing:
            missing[0].all_gather(missing)

    engine.module.register_forward_hook(gather)


def release(frozen: Any) -> None:
    """Give back what is whole of a divided model until its next pass; collective.

    Of a model that is not divided nothing changes.
    """
    if not isinstance(frozen, PackedModel):
        frozen.empty_partition_cache()


def destroy(frozen: Any) -> None:
    """End the engine of a divided model; of another one nothing changes."""
    if not isinstance(frozen, PackedModel):
        frozen.destroy()
