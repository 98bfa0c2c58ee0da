"""A value model over packed tokens: micro-batch in, one value per response token out.

Owns the loading of a decoder with a scalar head and its forward pass. Refuses to own the
engine around it and the loss. Invariants: the value of a token is read at the token before
it (``predictor_R``), so it cannot know what it values; the head computes in float32 whatever
the decoder does; a decoder that attends wrongly over packed tokens is refused when loaded.

The layout on disk is that of ``AutoModelForSequenceClassification`` with one label: a critic
can start from a reward model and be used as one.

Legend: T packed tokens, R response tokens, E width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rlpost.errors import UserError
from rlpost.models.directory.boundary import reading_model
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.attention import ATTENTION, register_packed_attention
from rlpost.training.dropout import switch_off_dropout
from rlpost.training.policy import (
    PolicyInputs,
    checkpoint_layers,
    packed_hidden,
    refuse_broken_weights,
    refuse_random,
)
from rlpost.training.rehearsal import rehearse
from rlpost.training.scoring import scoring_batch

FIELD = "critic.init_from"  # what an error names; the policy's model.path by default


class ValueHead(nn.Module):
    """Linear to one number without bias, as transformers' ``score`` is, but in float32.

    A module of its own, so that ZeRO-3's hooks gather the weight around the call.
    """

    def __init__(self, weight_1E: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_1E)

    def forward(self, hidden_RE: Tensor) -> Tensor:
        return linear(hidden_RE.float(), self.weight.float()).squeeze(-1)


class Critic(nn.Module):
    """A decoder and a scalar head; the decoder's parameters keep their names in ``model``."""

    def __init__(self, decoder: nn.Module, head: ValueHead) -> None:
        super().__init__()
        self.model = decoder
        self.score = head

    def forward(self, inputs: PolicyInputs) -> Tensor:
        """Return the value before each response token, float32, (R,)."""
        return self.score(packed_hidden(self.model, inputs)[inputs.predictor_R])


def is_sequence_classifier(model_path: str) -> bool:
    """Whether the directory holds a model with a classification head (a reward model)."""
    from transformers import AutoConfig

    names = AutoConfig.from_pretrained(model_path).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def load_critic(
    model_path: str, *, dtype: torch.dtype, gradient_checkpointing: bool = False
) -> Critic:
    """Load a model directory onto the CPU.

    A causal LM gives the decoder, and the head starts at zero: every first value is 0, and
    the first update moves the head alone. A reward model gives the decoder and its head.

    Raises:
        UserError: there is neither there, or its architecture cannot be packed.
    """
    register_packed_attention()
    directory = ModelDirectory.read(model_path, field=FIELD, kind=ModelKind.critic)
    rehearse(directory.shell(), field=FIELD)
    with reading_model(f"{FIELD}: {model_path} cannot be loaded as a value model"):
        decoder, weight_1E = _load_parts(model_path, dtype)
    refuse_broken_weights(decoder, field=FIELD)
    switch_off_dropout(decoder)
    critic = Critic(decoder, ValueHead(weight_1E))
    _verify_packing(critic.model)
    if gradient_checkpointing:
        checkpoint_layers(decoder)
    return critic.train()  # layers checkpoint only in training mode; nothing else differs


def _load_parts(model_path: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    options = {"dtype": dtype, "attn_implementation": ATTENTION}
    if is_sequence_classifier(model_path):
        model = AutoModelForSequenceClassification.from_pretrained(model_path, **options)
        weight_1E = _score_weight(model, model_path)
    else:
        model = AutoModelForCausalLM.from_pretrained(model_path, **options)
        width = model.config.get_text_config().hidden_size
        weight_1E = torch.zeros(1, width, dtype=dtype)
    return model.get_decoder(), weight_1E


def _score_weight(model: nn.Module, model_path: str) -> Tensor:
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.bias is not None or head.out_features != 1:
        raise UserError(
            f"{FIELD}: {model_path!r} must have a linear head `score` with one output and no "
            f"bias, got {head}; use a reward model with num_labels=1, or a causal LM"
        )
    return head.weight.detach().clone()


@torch.no_grad()
def _verify_packing(decoder: nn.Module) -> None:
    """Compare hidden states of a packed pass, in training mode, with those of single sequences.

    Raises:
        UserError: they differ by more than rounding.
    """
    device = next(decoder.parameters()).device
    vocabulary = decoder.get_input_embeddings().weight.shape[0]
    prompt, first, second = ([(7 * i + k) % vocabulary for i in range(4)] for k in (1, 3, 5))
    inputs = PolicyInputs.of(scoring_batch([(prompt, [first, second])]), device=device)
    training = decoder.training
    decoder.train()
    name = type(decoder).__name__
    refuse_random(name, lambda: packed_hidden(decoder, inputs), field=FIELD)
    packed_RE = packed_hidden(decoder, inputs)[inputs.predictor_R]
    decoder.eval()
    decoder.set_attn_implementation("sdpa" if decoder._supports_sdpa else "eager")
    plain = [
        decoder(input_ids=torch.tensor([prompt + response], device=device), use_cache=False)
        .last_hidden_state[0, len(prompt) - 1 : -1]
        .float()
        for response in (first, second)
    ]
    decoder.set_attn_implementation(ATTENTION)
    decoder.train(training)
    plain_RE = torch.cat(plain)
    difference = ((packed_RE.float() - plain_RE).norm() / plain_RE.norm()).item()
    bound = 1e-3 if packed_RE.dtype is torch.float32 else 0.1
    if not difference < bound:
        raise UserError(
            f"{FIELD}: {name} gives other hidden states on packed tokens than "
            f"on single sequences (relative difference {difference:.3g}, bound {bound}), so it "
            "cannot be trained here; use a model of a plain decoder architecture such as Llama "
            "or Qwen"
        )
