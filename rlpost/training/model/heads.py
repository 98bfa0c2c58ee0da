"""The two heads of a trained decoder: log-probs of tokens, and values before them.

Owns, for each head, what it computes, how a model directory becomes a decoder with it, what
the packed pass is compared with when a model is loaded, and the layout on disk. Refuses to own
the order of loading (loading.py) and the decoder's forward pass (packed_model.py). Invariants:
a token is read at the token before it (``read_R``), so a value cannot know what it values; the
value head computes in float32 whatever the decoder does.

Legend: T packed tokens, R scored tokens, E width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rlpost.errors import UserError
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.model.attention import ATTENTION
from rlpost.training.model.logprobs import token_logprobs
from rlpost.training.model.packed_model import ModelInputs, PackedModel, packed_hidden


class TrainedHead(Protocol):
    """What loading, training and exporting ask of a head."""

    kind: ClassVar[ModelKind]
    purpose: ClassVar[str]  # completes "the model cannot be loaded .."
    compared: ClassVar[str]  # what packing is checked by, as an error calls it
    unit: ClassVar[str]  # of their difference
    bounds: ClassVar[tuple[float, float]]  # of their difference: exact dtype, bfloat16

    def __call__(
        self, module: PackedModel, inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return the fields of ``Outputs``; see ``packed_model.Head``."""

    def load(self, path: str, *, dtype: torch.dtype, field: str) -> PackedModel:
        """Read the weights onto the CPU."""

    def packed(self, module: PackedModel, inputs: ModelInputs) -> Tensor:
        """Return what is compared, of a packed pass."""

    def plain(self, model: Any, prompt: list[int], response: list[int]) -> Tensor:
        """Return the same of one ordinary pass over one sequence."""

    def difference(self, packed: Tensor, plain: Tensor) -> Tensor:
        """Return how far the two are apart."""

    def shell(self, start: Path, *, dtype: torch.dtype) -> tuple[nn.Module, str]:
        """Return the exported model without weights, and what ``model.`` is called in it.

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

    chunk: int

    def __call__(
        self, module: PackedModel, inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return what ``token_logprobs`` says of the scored tokens."""
        return token_logprobs(
            packed_hidden(module.model.get_decoder(), inputs),
            module.model.get_output_embeddings(),
            read_R=inputs.read_R,
            target_R=inputs.target_R,
            temperature=temperature,
            chunk=self.chunk,
        )

    def load(self, path: str, *, dtype: torch.dtype, field: str) -> PackedModel:
        from transformers import AutoModelForCausalLM, GenerationConfig

        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=ATTENTION,
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

    def shell(self, start: Path, *, dtype: torch.dtype) -> tuple[nn.Module, str]:
        return ModelDirectory.read(start).shell(dtype=dtype), ""


class Scalar(nn.Module):
    """Linear to one number without bias, as transformers' ``score`` is, but in float32.

    A module of its own, so that ZeRO-3's hooks gather the weight around the call.
    """

    def __init__(self, weight_1E: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_1E)

    def forward(self, hidden_RE: Tensor) -> Tensor:
        return linear(hidden_RE.float(), self.weight.float()).squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class ValueHead:
    """The value before each scored token: a critic.

    The layout on disk is that of ``AutoModelForSequenceClassification`` with one label: a
    critic can start from a reward model and be used as one. From a causal LM it takes the
    decoder, and the head starts at zero: every first value is 0, and the first update moves the
    head alone.
    """

    kind: ClassVar[ModelKind] = ModelKind.critic
    purpose: ClassVar[str] = "as a value model"
    compared: ClassVar[str] = "hidden states"
    unit: ClassVar[str] = "relative difference {:.3g}"
    bounds: ClassVar[tuple[float, float]] = (1e-3, 0.1)

    def __call__(
        self, module: PackedModel, inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return the values (float32, (R,)); they know no temperature."""
        assert module.score is not None
        return (module.score(packed_hidden(module.model, inputs)[inputs.read_R]),)

    def load(self, path: str, *, dtype: torch.dtype, field: str) -> PackedModel:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        options = {"dtype": dtype, "attn_implementation": ATTENTION}
        if is_sequence_classifier(path):
            model = AutoModelForSequenceClassification.from_pretrained(path, **options)
            weight_1E = _score_weight(model, path, field)
        else:
            model = AutoModelForCausalLM.from_pretrained(path, **options)
            width = model.config.get_text_config().hidden_size
            weight_1E = torch.zeros(1, width, dtype=dtype)
        return PackedModel(model.get_decoder(), head=self, score=Scalar(weight_1E))

    def packed(self, module: PackedModel, inputs: ModelInputs) -> Tensor:
        return packed_hidden(module.model, inputs)[inputs.read_R]

    def plain(self, model: Any, prompt: list[int], response: list[int]) -> Tensor:
        ids_1T = torch.tensor([prompt + response], device=model.device)
        hidden_1TE = model(input_ids=ids_1T, use_cache=False).last_hidden_state
        return hidden_1TE[0, len(prompt) - 1 : -1].float()

    def difference(self, packed: Tensor, plain: Tensor) -> Tensor:
        return (packed.float() - plain).norm() / plain.norm()

    def shell(self, start: Path, *, dtype: torch.dtype) -> tuple[nn.Module, str]:
        from transformers import AutoConfig, AutoModelForSequenceClassification

        config = AutoConfig.from_pretrained(start)  # the live model's has its drop-out off
        config.num_labels = 1
        config.architectures = None  # save_pretrained fills in the classifier's
        try:
            with torch.device("meta"):
                shell = AutoModelForSequenceClassification.from_config(config)
        except ValueError as error:
            raise UserError(
                f"critic: {type(config).__name__} has no sequence classifier in transformers, so "
                f"the critic cannot be exported as a reward model: {error}"
            ) from error
        decoder = shell.get_decoder()
        (prefix,) = (name for name, module in shell.named_modules() if module is decoder)
        return shell.to(dtype), f"{prefix}."


def is_sequence_classifier(model_path: str) -> bool:
    """Whether the directory holds a model with a classification head (a reward model)."""
    from transformers import AutoConfig

    names = AutoConfig.from_pretrained(model_path).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def _score_weight(model: nn.Module, model_path: str, field: str) -> Tensor:
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.bias is not None or head.out_features != 1:
        raise UserError(
            f"{field}: {model_path!r} must have a linear head `score` with one output and no "
            f"bias, got {head}; use a reward model with num_labels=1, or a causal LM"
        )
    return head.weight.detach().clone()
