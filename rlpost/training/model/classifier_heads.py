"""Heads that read a number off a hidden state: values, scores of responses and scores of steps.

Owns, for each of them, where a scored token is read, what becomes of the logits, how a model
directory becomes a decoder with the head, and the layout on disk, which is that of transformers'
own classifiers. Refuses to own the order of loading (loading.py) and the decoder's forward pass
(packed_model.py). Invariants: a value is read at the token before the one that it values, so it
cannot know it; a score is read at its own token; both are computed in float32 whatever the decoder
does; a head that starts from a causal LM starts at zero.

Legend: T packed tokens, R scored tokens, E width, K labels of the classifier: 1 or 2.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rlpost.errors import UserError
from rlpost.models.directory.config_file import ModelKind, classifier_suffix
from rlpost.models.padding import padding_token
from rlpost.training.model.build import build
from rlpost.training.model.heads import Shell
from rlpost.training.model.packed_model import ModelInputs, PackedModel, packed_hidden

_LINEAR = ("score", "classifier")  # what transformers calls the last layer of a classifier


class Projection(nn.Module):
    """Linear to one number, in float32: the logit, or of two labels the second less the first.

    A module of its own, so that ZeRO-3's hooks gather the weight around the call.
    """

    def __init__(self, weight_KE: Tensor, bias_K: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_KE)
        self.bias = None if bias_K is None else nn.Parameter(bias_K)

    def forward(self, hidden_RE: Tensor) -> Tensor:
        bias_K = None if self.bias is None else self.bias.float()
        return score_of_logits(linear(hidden_RE.float(), self.weight.float(), bias_K))


def score_of_logits(logits_RK: Tensor) -> Tensor:
    """Return the logit of one label, or the log-odds of the second of two labels, (R,)."""
    return logits_RK.squeeze(-1) if logits_RK.shape[-1] == 1 else logits_RK[:, 1] - logits_RK[:, 0]


@dataclass(frozen=True, kw_only=True)
class ClassifierHead:
    """One number for each scored token, in the layout of a classifier of transformers.

    ``num_labels`` is that of a classifier made from a causal LM; ``most_labels`` is how many an
    existing one may have. The decoder of a causal LM is kept, and its head starts at zero: every
    first number is 0, and the first update moves the head alone.
    """

    compared: ClassVar[str] = "hidden states"
    unit: ClassVar[str] = "relative difference {:.3g}"
    bounds: ClassVar[tuple[float, float]] = (1e-3, 0.1)

    kind: ModelKind
    purpose: str
    reads_before: bool = False  # a scored token is read at the token before it
    num_labels: int = 1
    most_labels: int = 1

    def __call__(
        self, module: PackedModel, inputs: ModelInputs, *, temperature: float
    ) -> tuple[Tensor, ...]:
        """Return the numbers (float32, (R,)); they know no temperature."""
        assert module.score is not None
        return (module.score(self.packed(module, inputs)),)

    def load(
        self, path: str, *, dtype: torch.dtype, field: str, hollow: bool = False
    ) -> PackedModel:
        import transformers

        if is_classifier(path, kind=self.kind):
            auto = getattr(transformers, self._auto)
            model = build(auto, path, dtype=dtype, hollow=hollow)
            score = Projection(*self._weights(model, path, field))
        else:
            auto = transformers.AutoModelForCausalLM
            model = build(auto, path, dtype=dtype, hollow=hollow)
            last = _last_layer(self.shell(Path(path), dtype=dtype).model)
            bias_K = None if last.bias is None else torch.zeros(last.bias.shape, dtype=dtype)
            score = Projection(torch.zeros(last.weight.shape, dtype=dtype), bias_K)
        return PackedModel(model.get_decoder(), head=self, score=score)

    @property
    def _auto(self) -> str:
        return f"AutoModel{classifier_suffix(self.kind)}"

    def _weights(self, model: Any, path: str, field: str) -> list[Tensor]:
        last = _last_layer(model)
        # transformers adds no bias in a sequence classifier, so none could be exported.
        spare = last is None or (last.bias is not None and self.most_labels == 1)
        if spare or last.out_features > self.most_labels:
            labels = "one output and no bias" if self.most_labels == 1 else "one or two outputs"
            raise UserError(
                f"{field}: {path!r} must have a linear head `score` with {labels}, got {last}; use "
                f"a {self.kind.value} with num_labels={self.num_labels}, or a causal LM"
            )
        return [each.detach().clone() for each in last.parameters()]

    def packed(self, module: PackedModel, inputs: ModelInputs) -> Tensor:
        at_R = inputs.read_R if self.reads_before else inputs.token_R
        return packed_hidden(module.model, inputs)[at_R]

    def plain(self, model: Any, prompt: list[int], response: list[int]) -> Tensor:
        ids_1T = torch.tensor([prompt + response], device=model.device)
        hidden_TE = model(input_ids=ids_1T, use_cache=False).last_hidden_state[0].float()
        start = len(prompt)
        return hidden_TE[start - 1 : -1] if self.reads_before else hidden_TE[start:]

    def difference(self, packed: Tensor, plain: Tensor) -> Tensor:
        return (packed.float() - plain).norm() / plain.norm()

    def shell(self, start: Path, *, dtype: torch.dtype) -> Shell:
        import transformers

        config = transformers.AutoConfig.from_pretrained(start)  # the live one has no drop-out
        if not is_classifier(str(start), kind=self.kind):
            config.num_labels = self.num_labels
        config.architectures = None  # save_pretrained fills in the classifier's
        config.get_text_config().pad_token_id = padding_token(start, config)
        try:
            with torch.device("meta"):
                model = getattr(transformers, self._auto).from_config(config)
        except ValueError as error:
            raise UserError(
                f"transformers has no class {classifier_suffix(self.kind)} for "
                f"{type(config).__name__}, so {self.kind.with_article} of it could not be "
                "exported; use a model of another family, such as Llama or Qwen"
            ) from error
        decoder, last = model.get_decoder(), _last_layer(model)
        names = {id(module): f"{name}." for name, module in model.named_modules()}
        prefixes = {"model.": names[id(decoder)], "score.": names[id(last)]}
        return Shell(model=model.to(dtype), prefixes=prefixes)


VALUE_HEAD = ClassifierHead(kind=ModelKind.critic, purpose="as a value model", reads_before=True)
SCORE_HEAD = ClassifierHead(kind=ModelKind.outcome, purpose="as a reward model")
STEP_HEAD = ClassifierHead(
    kind=ModelKind.process, purpose="as a reward model of steps", num_labels=2, most_labels=2
)


def is_classifier(model_path: str, *, kind: ModelKind) -> bool:
    """Whether the directory holds a model with the classification head of ``kind``."""
    from transformers import AutoConfig

    names = AutoConfig.from_pretrained(model_path).architectures or []
    return any(name.endswith(classifier_suffix(kind)) for name in names)


def _last_layer(model: Any) -> Any:
    """Return the linear layer that gives a classifier's logits, None without one."""
    found = (getattr(model, name, None) for name in _LINEAR)
    return next((layer for layer in found if isinstance(layer, nn.Linear)), None)
