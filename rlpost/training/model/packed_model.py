"""A decoder over packed tokens with a head: micro-batch in, one score per scored token out.

Owns the forward pass. Refuses to own loading (loading.py), what a head computes (heads.py), the
engine around it and the objective. Invariant: ``use_cache`` is off and there is no attention
mask; with either, tokens of one sequence would leak into the next.

Legend: T packed tokens, R scored tokens, E width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rlpost.algorithms.distill.top_tokens import IDS, LOGS, TopTokens
from rlpost.algorithms.loss import LossBatch
from rlpost.training.adapters.adapt import LiveAdapter
from rlpost.training.model.attention import PackedLayout
from rlpost.training.model.noise import EmbeddingNoise, added_to_embeddings
from rlpost.training.packing.batch import Block, MicroBatch
from rlpost.training.precision import on_device


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """What the forward pass needs of a batch, on the device."""

    token_ids_1T: Tensor
    position_ids_1T: Tensor
    read_R: Tensor  # where a token is predicted
    token_R: Tensor  # where it stands
    layout: PackedLayout
    blocks: tuple[Block, ...]  # of which ``layout`` was made
    noise: EmbeddingNoise | None = None  # None: the embeddings are as they are
    teacher: TopTokens | None = None  # what a stored teacher says of the scored tokens

    @property
    def target_R(self) -> Tensor:
        """The ids of the scored tokens."""
        return self.token_ids_1T[0, self.token_R]

    @classmethod
    def of(
        cls, batch: MicroBatch, *, device: torch.device, learning: bool = False
    ) -> "ModelInputs":
        """Return the inputs; noise that the batch asks for is added only when ``learning``."""
        return cls(
            token_ids_1T=on_device(batch.token_ids_T, device)[None],
            position_ids_1T=on_device(batch.position_ids_T, device)[None],
            read_R=on_device(batch.read_R, device),
            token_R=on_device(batch.token_R, device),
            layout=PackedLayout.of(batch.blocks, device=device),
            blocks=batch.blocks,
            noise=EmbeddingNoise.of(batch) if learning else None,
            teacher=TopTokens.of(
                {
                    name: on_device(array, device)
                    for name, array in batch.columns.items()
                    if name in (IDS, LOGS)
                }
            ),
        )

    def behind(self, num: int) -> tuple["ModelInputs", Tensor]:
        """Return the inputs with ``num`` places in front of every block, and where those are.

        What a block's tokens see and what is read of them stays; their positions rise by ``num``.
        The places have the id 0.
        """
        device = self.read_R.device
        num_tokens, num_blocks = self.token_ids_1T.shape[1], len(self.blocks)
        # Made on the host, which knows the blocks: the device would have to be waited for.
        starts = [block.prompt[0] for block in self.blocks]
        old_T = np.arange(num_tokens)
        moved_T = old_T + num * np.searchsorted(starts, old_T, side="right")
        between_T = np.delete(np.arange(num_tokens + num * num_blocks), moved_T)
        new_T, places_T = on_device(moved_T, device), on_device(between_T, device)
        ids = self.token_ids_1T.new_zeros(1, num_tokens + num * num_blocks)
        positions = torch.zeros_like(ids)
        ids[0, new_T] = self.token_ids_1T[0]
        positions[0, new_T] = self.position_ids_1T[0] + num
        positions[0, places_T] = torch.arange(num, device=device).repeat(num_blocks)
        blocks = tuple(block.behind(num, before=i) for i, block in enumerate(self.blocks))
        moved = replace(
            self,
            token_ids_1T=ids,
            position_ids_1T=positions,
            read_R=new_T[self.read_R],
            token_R=new_T[self.token_R],
            layout=PackedLayout.of(blocks, device=device),
            blocks=blocks,
            noise=None if self.noise is None else self.noise.behind(num),
        )
        return moved, places_T


def loss_batch(batch: MicroBatch, *, device: torch.device) -> LossBatch:
    """Return what an objective needs of a batch, on the device."""
    return LossBatch(
        item_R=on_device(batch.item_R, device),
        unit_I=on_device(batch.unit_I, device),
        num_items=len(batch.number_I),
        num_units=len(batch.number_U),
        columns={name: on_device(array, device) for name, array in batch.columns.items()},
    )


def packed_hidden(decoder: nn.Module, inputs: ModelInputs) -> Tensor:
    """Return the decoder's last hidden states, (T, E), without a leak between sequences."""
    hidden_1TE = decoder(
        input_ids=inputs.token_ids_1T,
        position_ids=inputs.position_ids_1T,
        attention_mask=None,
        use_cache=False,
        packed_layout=inputs.layout,
    ).last_hidden_state
    return hidden_1TE[0]


class Head(Protocol):
    """How hidden states become scores."""

    def __call__(
        self, module: "PackedModel", inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return the fields of ``algorithms.loss.Outputs`` in their order, float32, (R,)."""


class PackedModel(nn.Module):
    """A model, whose parameters keep their Hugging Face names under ``model``, and its head.

    ``score`` holds the head's own parameters, if it has any that are not the model's, and
    ``adapter`` what was put into the model (training/adapters/), if anything was. ``frozen`` are
    whole models that the head asks beside it.
    """

    def __init__(self, model: Any, *, head: Head, score: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.score = score
        self.adapter: LiveAdapter | None = None
        self._head = head
        # A tuple, so that they are no parts of this module: nothing trains, divides or saves them.
        self.frozen: tuple[PackedModel, ...] = ()

    def forward(self, inputs: ModelInputs, *, temperature: float = 1.0) -> tuple[Tensor, ...]:
        """Return what the head says; see ``Head``. The temperature divides logits."""
        virtual = None if self.adapter is None else self.adapter.virtual
        if virtual is None:
            with added_to_embeddings(self.model, inputs.noise):
                return self._head(self, inputs, temperature=temperature)
        inputs, places_T = inputs.behind(virtual.num)
        with added_to_embeddings(self.model, inputs.noise), virtual.embedded(places_T):
            return self._head(self, inputs, temperature=temperature)


@torch.no_grad()
def score_batches(
    module: Any, batches: Sequence[MicroBatch], *, device: torch.device, temperature: float
) -> list[np.ndarray]:
    """Score every micro-batch with a ``PackedModel`` or the engine around it: float32, (R,)."""
    return [
        module(ModelInputs.of(batch, device=device), temperature=temperature)[0].cpu().numpy()
        for batch in batches
    ]
