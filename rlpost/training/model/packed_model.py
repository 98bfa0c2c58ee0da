"""A decoder over packed tokens with a head: micro-batch in, one score per scored token out.

Owns the forward pass. Refuses to own loading (loading.py), what a head computes (heads.py), the
engine around it and the objective. Invariant: ``use_cache`` is off and there is no attention
mask; with either, tokens of one sequence would leak into the next.

Legend: T packed tokens, R scored tokens, E width.
"""

from collections.abc import Sequence
from contextlib import ExitStack
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
from rlpost.training.model.sequence_parallel import SequenceGroup
from rlpost.training.packing.batch import Block, MicroBatch
from rlpost.training.precision import on_device


@dataclass(frozen=True, kw_only=True)
class ScoredPlaces:
    """Where scored tokens are predicted and where they stand, on the host, int64."""

    read_R: np.ndarray
    token_R: np.ndarray

    def on(self, device: torch.device) -> dict[str, Any]:
        """Return the fields of ``ModelInputs`` that say so."""
        fields = {name: on_device(array, device) for name, array in vars(self).items()}
        return {"places": self, **fields}


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """What the forward pass needs of a batch, on the device.

    Where scored tokens are is known on the host, too: whoever moves or divides tokens computes the
    new places there, because the device would have to be waited for.
    """

    token_ids_1T: Tensor
    position_ids_1T: Tensor
    read_R: Tensor  # where a token is predicted
    token_R: Tensor  # where it stands
    target_R: Tensor  # its id
    places: ScoredPlaces  # ``read_R`` and ``token_R``
    layout: PackedLayout
    blocks: tuple[Block, ...]  # of which ``layout`` was made
    noise: EmbeddingNoise | None = None  # None: the embeddings are as they are
    teacher: TopTokens | None = None  # what a stored teacher says of the scored tokens

    @classmethod
    def of(
        cls, batch: MicroBatch, *, device: torch.device, learning: bool = False
    ) -> "ModelInputs":
        """Return the inputs; noise that the batch asks for is added only when ``learning``."""
        places = ScoredPlaces(read_R=batch.read_R, token_R=batch.token_R)
        return cls(
            token_ids_1T=on_device(batch.token_ids_T, device)[None],
            position_ids_1T=on_device(batch.position_ids_T, device)[None],
            **places.on(device),
            target_R=on_device(batch.target_R, device),
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

    def behind(self, num: int) -> tuple["ModelInputs", np.ndarray]:
        """Return the inputs with ``num`` places in front of every block, and where those are.

        What a block's tokens see and what is read of them stays; their positions rise by ``num``.
        The places have the id 0.
        """
        device = self.read_R.device
        num_tokens, num_blocks = self.token_ids_1T.shape[1], len(self.blocks)
        starts = [block.prompt[0] for block in self.blocks]
        old_T = np.arange(num_tokens)
        moved_T = old_T + num * np.searchsorted(starts, old_T, side="right")
        between_T = np.delete(np.arange(num_tokens + num * num_blocks), moved_T)
        new_T = on_device(moved_T, device)
        ids = self.token_ids_1T.new_zeros(1, num_tokens + num * num_blocks)
        positions = torch.zeros_like(ids)
        ids[0, new_T] = self.token_ids_1T[0]
        positions[0, new_T] = self.position_ids_1T[0] + num
        repeated = torch.arange(num, device=device).repeat(num_blocks)
        positions[0, on_device(between_T, device)] = repeated
        places = ScoredPlaces(
            read_R=moved_T[self.places.read_R], token_R=moved_T[self.places.token_R]
        )
        blocks = tuple(block.behind(num, before=i) for i, block in enumerate(self.blocks))
        moved = replace(
            self,
            token_ids_1T=ids,
            position_ids_1T=positions,
            **places.on(device),
            layout=PackedLayout.of(blocks, device=device),
            blocks=blocks,
            noise=None if self.noise is None else self.noise.behind(num),
        )
        return moved, between_T

    def divided(self, group: SequenceGroup, *, reads_before: bool) -> "Divided":
        """Return this rank's tokens, and the scored tokens whose place is among them.

        Args:
            group: the ranks, all of which have the same inputs.
            reads_before: whether the head reads where a token is predicted, or where it stands.
        """
        device, num = self.read_R.device, self.token_ids_1T.shape[1]
        each = group.tokens_each(num)
        start, missing = group.rank * each, group.size * each - num
        rows = group.own_rows(
            self.places.read_R if reads_before else self.places.token_R, num_tokens=num
        )
        row_r = on_device(rows.row_r, device)
        padding = (Block(prompt=(num, num + missing), responses=()),) if missing else ()
        positions_1T = nn.functional.pad(self.position_ids_1T, (0, missing))
        positions_1T[0, num:] = torch.arange(missing, device=device)
        ids_1T = nn.functional.pad(self.token_ids_1T, (0, missing))
        part = replace(
            self,
            token_ids_1T=ids_1T[:, start : start + each],
            position_ids_1T=positions_1T[:, start : start + each],
            **ScoredPlaces(read_R=rows.at_r, token_R=rows.at_r).on(device),
            target_R=self.target_R[row_r],
            layout=PackedLayout.of((*self.blocks, *padding), device=device, group=group),
            noise=None if self.noise is None else self.noise.from_token(start),
            teacher=None if self.teacher is None else TopTokens(*(x[row_r] for x in self.teacher)),
        )
        return Divided(inputs=part, place_R=on_device(rows.place_R, device), start=start)


@dataclass(frozen=True, kw_only=True)
class Divided:
    """One rank's part of a micro-batch.

    In ``inputs`` both ``read_R`` and ``token_R`` are where the head reads. Rows that only make up
    the number are at its first token, and ``place_R`` names none of them.
    """

    inputs: ModelInputs
    place_R: Tensor  # of each scored token among the rows of all ranks
    start: int  # the first of its tokens


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

    @property
    def reads_before(self) -> bool:
        """Whether it reads where a token is predicted (``read_R``), or where it stands."""

    def __call__(
        self, module: "PackedModel", inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return the fields of ``algorithms.loss.Outputs`` in their order, float32, (R,)."""


class PackedModel(nn.Module):
    """A model, whose parameters keep their Hugging Face names under ``model``, and its head.

    ``score`` holds the head's own parameters, if it has any that are not the model's, and
    ``adapter`` what was put into the model (training/adapters/), if anything was. ``frozen`` are
    models that the head asks beside it.
    """

    def __init__(self, model: Any, *, head: Head, score: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.score = score
        self.adapter: LiveAdapter | None = None
        self.group: SequenceGroup | None = None  # of ranks that share its micro-batches
        self._head = head
        # A tuple, so that they are no parts of this module: nothing trains or saves them. Each is a
        # ``PackedModel`` or the engine around it.
        self.frozen: tuple[Any, ...] = ()

    def forward(
        self, inputs: ModelInputs, *, temperature: float = 1.0, head: Head | None = None
    ) -> tuple[Tensor, ...]:
        """Return what the head says, or ``head`` in its place; see ``Head``.

        The temperature divides logits.
        """
        head = head or self._head
        virtual = None if self.adapter is None else self.adapter.virtual
        places_T = None
        if virtual is not None:
            inputs, places_T = inputs.behind(virtual.num)
        if self.group is None:
            return self._scored(inputs, places_T, head, temperature=temperature)
        mine = inputs.divided(self.group, reads_before=head.reads_before)
        if places_T is not None:
            places_T = places_T - mine.start
        answer = self._scored(mine.inputs, places_T, head, temperature=temperature)
        return self.group.gathered(answer, mine.place_R)

    def _scored(
        self,
        inputs: ModelInputs,
        places_T: np.ndarray | None,
        head: Head,
        *,
        temperature: float,
    ) -> tuple[Tensor, ...]:
        """Ask the head; an adapter's virtual tokens are at ``places_T``."""
        with ExitStack() as changed:
            changed.enter_context(added_to_embeddings(self.model, inputs.noise))
            if places_T is not None:
                changed.enter_context(self.adapter.virtual.embedded(places_T))
            return head(self, inputs, temperature=temperature)


@torch.no_grad()
def score_batches(
    module: Any, batches: Sequence[MicroBatch], *, device: torch.device, temperature: float
) -> list[np.ndarray]:
    """Score every micro-batch with a ``PackedModel`` or the engine around it: float32, (R,)."""
    return [
        module(ModelInputs.of(batch, device=device), temperature=temperature)[0].cpu().numpy()
        for batch in batches
    ]
