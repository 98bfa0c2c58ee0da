"""What a head of a trained decoder is, and the one that gives log-probs.

Owns the protocol and, for log-probs, what is computed, how a model directory becomes a decoder
with the head, what the packed pass is compared with when a model is loaded, and the layout on disk.
Refuses to own heads that are not the model's own (classifier_heads.py), the order of loading
(loading.py) and the decoder's forward pass (packed_model.py). Invariant: a token is predicted at
the token before it (``read_R``).

Legend: T packed tokens, R scored tokens, V vocab.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.model.build import build
from rlpost.training.model.logprobs import Logits, through_head, token_logprobs
from rlpost.training.model.packed_model import ModelInputs, PackedModel, packed_hidden


@dataclass(frozen=True, kw_only=True)
class Shell:
    """An exported model without weights, and how its parts are called.

    ``prefixes`` are those of a ``PackedModel``'s weights and the exported model's own.

    Example: ``Shell(model=model, prefixes={"model.": "transformer.", "score.": "classifier."})``
    """

    model: Any
    prefixes: Mapping[str, str]

    def name(self, weight: str) -> str:
        """Return what a weight of a ``PackedModel`` is called in the exported model."""
        for ours, theirs in self.prefixes.items():
            if weight.startswith(ours):
                return theirs + weight.removeprefix(ours)
        return weight


class TrainedHead(Protocol):
    """What loading, training and exporting ask of a head."""

    compared: ClassVar[str]  # what packing is checked by, as an error calls it
    unit: ClassVar[str]  # of their difference
    bounds: ClassVar[tuple[float, float]]  # of their difference: exact dtype, bfloat16

    @property
    def kind(self) -> ModelKind:
        """What the model is used for."""

    @property
    def reads_before(self) -> bool:
        """See ``packed_model.Head``."""

    @property
    def purpose(self) -> str:
        """Completes "the model cannot be loaded .."."""

    def __call__(
        self, module: PackedModel, inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return the fields of ``Outputs``; see ``packed_model.Head``."""

    def load(
        self, path: str, *, dtype: torch.dtype, field: str, hollow: bool = False
    ) -> PackedModel:
        """Read the weights onto the CPU; ``hollow`` leaves them where they are (hollow.py)."""

    def packed(self, module: PackedModel, inputs: ModelInputs) -> Tensor:
        """Return what is compared, of a packed pass."""

    def plain(self, model: Any, prompt: list[int], response: list[int]) -> Tensor:
        """Return the same of one ordinary pass over one sequence."""

    def difference(self, packed: Tensor, plain: Tensor) -> Tensor:
        """Return how far the two are apart."""

    def shell(self, start: Path, *, dtype: torch.dtype) -> "Shell":
        """Return the exported model without weights.

        Raises:
            UserError: transformers has no such class for this architecture.
        """


@dataclass(frozen=True, kw_only=True)
class LogprobHead:
    """Log-probs and entropies of a causal language model.

    ``chunk`` is how many tokens' logits exist at once.
    """

    kind: ClassVar[ModelKind] = ModelKind.policy
    purpose: ClassVar[str] = "for packed training"
    compared: ClassVar[str] = "log-probs"
    unit: ClassVar[str] = "mean difference {:.3g} nats"
    bounds: ClassVar[tuple[float, float]] = (1e-3, 0.25)
    reads_before: ClassVar[bool] = True

    chunk: int

    def __call__(
        self, module: PackedModel, inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return what ``token_logprobs`` says of the scored tokens."""

        def score(logits: Logits, hidden_TE: Tensor) -> tuple[Tensor, ...]:
            return token_logprobs(
                hidden_TE,
                logits,
                read_R=inputs.read_R,
                target_R=inputs.target_R,
                temperature=temperature,
                chunk=self.chunk,
            )

        hidden_TE = packed_hidden(module.model.get_decoder(), inputs)
        return through_head(module.model, score, hidden_TE)

    def load(
        self, path: str, *, dtype: torch.dtype, field: str, hollow: bool = False
    ) -> PackedModel:
        from transformers import AutoModelForCausalLM, GenerationConfig

        model = build(
            AutoModelForCausalLM,
            path,
            dtype=dtype,
            hollow=hollow,
            generation_config=GenerationConfig(),  # export.py reads the file's, and mends it
        )
        return PackedModel(model, head=self)

    def packed(self, module: PackedModel, inputs: ModelInputs) -> Tensor:
        return self(module, inputs, temperature=1.0)[0]

    def plain(self, model: Any, prompt: list[int], response: list[int]) -> Tensor:
        ids_1T = torch.tensor([prompt + response], device=model.device)
        logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0].float()
        start = len(prompt)
        target_R1 = ids_1T[0, start:, None]
        return logits_TV[start - 1 : -1].log_softmax(-1).gather(1, target_R1).squeeze(1)

    def difference(self, packed: Tensor, plain: Tensor) -> Tensor:
        return (packed - plain).abs().mean()

    def shell(self, start: Path, *, dtype: torch.dtype) -> Shell:
        return Shell(model=ModelDirectory.read(start).shell(dtype=dtype), prefixes={"model.": ""})
