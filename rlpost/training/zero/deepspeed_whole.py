"""Weights that ZeRO-3 has divided, made whole for a while before there is an engine.

Owns what loading needs of them: forward passes, changes, and peft's reading of a layer. Refuses
to own how weights are divided (deepspeed_parts.py) and the gathers of training, which are the
engine's. Invariants: no more than one decoder layer is whole at a time, beside the modules around
the layers; all ranks gather in one order, because all run the same passes.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from rlpost.training.zero.deepspeed_layers import decoder_layers
from rlpost.training.zero.deepspeed_weights import gathered


@contextmanager
def whole_in_passes(module: nn.Module) -> Iterator[None]:
    """Have forward passes of ``module`` find whole weights inside the block; collective.

    A decoder layer is whole while it computes, and another module while it computes itself.
    """
    layers = decoder_layers(module)
    inside = {id(each) for layer in layers for each in layer.modules()}
    others = [each for each in module.modules() if id(each) not in inside]
    with ExitStack() as hooks:
        for each in layers:
            hooks.enter_context(_whole_while_called(each, list(each.parameters())))
        for each in others:
            if own := list(each.parameters(recurse=False)):
                hooks.enter_context(_whole_while_called(each, own))
        yield


@contextmanager
def _whole_while_called(module: nn.Module, weights: list[nn.Parameter]) -> Iterator[None]:
    block = ExitStack()

    def before(*_: Any) -> None:
        for weight in weights:  # one by one: gathered together, they would be there twice
            block.enter_context(gathered([weight]))

    def after(*_: Any) -> None:
        block.close()

    handles = [
        module.register_forward_pre_hook(before),
        module.register_forward_hook(after, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class DividedWeights:
    """``BaseWeights`` of a model whose weights are divided."""

    def whole(self, tensors: Sequence[Tensor]) -> AbstractContextManager[Any]:
        block: AbstractContextManager[Any] = gathered(tensors, keep_changes=True)
        return block

    @contextmanager
    def in_peft(self) -> Iterator[None]:
        # Peft gathers where transformers says that the process is at stage 3, which a Trainer
        # tells it by making such an object. It is known as long as it lives, and models that are
        # loaded meanwhile would be divided, too.
        from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

        said = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
        try:
            yield
        finally:
            unset_hf_deepspeed_config()
            del said
