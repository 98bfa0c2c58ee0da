"""Embeddings that are trained in place of those of tokens, as peft keeps them.

Owns the parameter and the hook that puts it into a forward pass. Refuses to own the places
(model/packed_model.py). It answers what is asked of peft's own handle on a model.

Legend: N virtual tokens, E width, T packed tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlpost.training.precision import on_device

_PLACE = "prompt_encoder"  # in the model


class VirtualTokens:
    """Peft's embedding of a prompt, as a module of the model, which is frozen beside it."""

    prefix = f"{_PLACE}."

    def __init__(self, model: Any, config: Any) -> None:
        from peft import PromptEmbedding
        from peft.utils.other import _prepare_prompt_learning_config

        self.config = _prepare_prompt_learning_config(config, model.config.get_text_config())
        self.config.num_transformer_submodules = 1  # there is no encoder beside the decoder
        self._model, self._on = model, True
        model.requires_grad_(False)
        embedding = PromptEmbedding(self.config, model.get_input_embeddings())
        model.add_module(_PLACE, embedding.to(model.get_input_embeddings().weight.device))

    @property
    def weight_NE(self) -> nn.Parameter:
        weight: nn.Parameter = getattr(self._model, _PLACE).embedding.weight
        return weight

    @property
    def num(self) -> int:
        """How many there are in front of a sequence now."""
        return len(self.weight_NE) if self._on else 0

    def disable_adapter_layers(self) -> None:
        self._on = False

    def enable_adapter_layers(self) -> None:
        self._on = True

    @contextmanager
    def embedded(self, places_T: np.ndarray) -> Iterator[None]:
        """Have the model's input embeddings be these at ``places_T``, in every sequence in turn.

        Places that are not among the tokens are left out; which those are is known on the host.
        """

        def put(module: nn.Module, args: Any, embedded_1TE: Tensor) -> Tensor:
            prompts = self.weight_NE.repeat(len(places_T) // len(self.weight_NE), 1)
            here = np.flatnonzero((places_T >= 0) & (places_T < embedded_1TE.shape[1]))
            place_T, which_T = (on_device(x, embedded_1TE.device) for x in (places_T[here], here))
            prompts_1TE = prompts[which_T].to(embedded_1TE)[None]
            return torch.index_copy(embedded_1TE, 1, place_T, prompts_1TE)

        handle = self._model.get_input_embeddings().register_forward_hook(put)
        try:
            yield
        finally:
            handle.remove()
