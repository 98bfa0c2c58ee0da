"""Can this architecture be trained on packed tokens? Asked of a model without weights.

Owns the answer before anything is loaded: the shell's forward pass runs on the meta device,
and what it asks of its attention is written down. Refuses to own numbers: loading.py
compares real forward passes when a rank has loaded the weights.

Example of a refusal: ``model.path: GptOssForCausalLM computes attention with attention sinks
(s_aux), which packed training does not implement; ...``
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlpost.errors import UserError
from rlpost.models.directory.read_errors import reading_model
from rlpost.training.model.dropout import switch_off_dropout
from rlpost.training.model.logprobs import logits_of

log = logging.getLogger(__name__)

_ATTENTION = "rlpost_rehearsed"
_NUM_TOKENS = 8
_WAY_OUT = "use a model of a plain decoder architecture such as Llama or Qwen"
_VARIANTS = {
    "s_aux": "attention sinks",
    "position_bias": "a bias on positions",
}


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What one layer asked of its attention."""

    has_layout: bool
    is_causal: bool
    window: int | None
    variants: dict[str, Any]


@dataclass
class _Record(TorchDispatchMode):
    """Attention calls and random operations of one forward pass."""

    calls: list[_Call] = field(default_factory=list)
    random: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # `rand` alone is left to the ranks: OPT draws a number for its layer drop and compares
        # it with 0.
        name = func.overloadpacket.__name__
        if torch.Tag.nondeterministic_seeded in func.tags and name != "rand":
            self.random.append(name)
        return func(*args, **(kwargs or {}))

    def attend(
        self,
        module: nn.Module,
        query_1HTD: Tensor,
        key_1KTD: Tensor,
        value_1KTD: Tensor,
        attention_mask: Tensor | None,
        packed_layout: object = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Stand in for ``attention.packed_attention``."""
        causal = kwargs.get("is_causal")
        self.calls.append(
            _Call(
                has_layout=packed_layout is not None and attention_mask is None,
                is_causal=getattr(module, "is_causal", True) if causal is None else causal,
                window=kwargs.get("sliding_window"),
                variants={n: kwargs[n] for n in _VARIANTS if kwargs.get(n) is not None},
            )
        )
        shape = (1, query_1HTD.shape[2], query_1HTD.shape[1], value_1KTD.shape[3])
        return query_1HTD.new_empty(shape), None


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What remains to be asked of an architecture that can be trained.

    Example: ``Rehearsal(architecture="Llama4ForCausalLM", reach=8192, field="model.path")``
    """

    architecture: str
    # Tokens up to which a sequence is computed rightly; None: any. Within the first chunk of a
    # chunked attention, or a window that a layer does not ask its attention for, all are seen.
    reach: int | None
    field: str

    def require_reach(self, *, longest_prompt: int, max_tokens: int) -> None:
        """Check that no sequence is longer than what packed training computes rightly.

        Raises:
            UserError: a prompt and its response together may be longer.
        """
        longest = longest_prompt + max_tokens
        if self.reach is None or longest <= self.reach:
            return
        raise UserError(
            f"{self.field}: {self.architecture} attends within chunks of {self.reach:,} "
            "tokens, which packed training implements only for sequences that fit into one, and "
            f"a sequence may have {longest:,}: the longest prompt {longest_prompt:,}, and "
            f"rollout.max_tokens={max_tokens}. Lower rollout.max_tokens or data.max_prompt_tokens "
            "until both fit, or use another model"
        )


def rehearse(model: Any, *, field: str = "model.path") -> Rehearsal:
    """Refuse an architecture that packed training would compute wrongly.

    Args:
        model: a shell; unusable afterwards.
        field: what an error calls it.

    Raises:
        UserError: says what of the architecture is in the way, with its numbers.
    """
    name = type(model).__name__
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    is_classifier = name.endswith(("ForSequenceClassification", "ForTokenClassification"))
    if decoder is None or decoder is model or not (is_classifier or isinstance(head, nn.Linear)):
        raise UserError(
            f"{field}: {name} has no separate decoder and linear output head, so it cannot be "
            f"trained on packed tokens; {_WAY_OUT}"
        )
    if not model._supports_attention_backend:
        raise UserError(
            f"{field}: {name} computes attention with code of its own that transformers cannot "
            "replace, so the sequences of a packed batch would mix. It cannot be trained here; "
            f"{_WAY_OUT}"
        )
    switch_off_dropout(model)
    record, output = _forward(model, decoder, name, field=field)
    found = Rehearsal(architecture=name, reach=_reach(record, decoder.config), field=field)
    if output is None:
        return found
    _refuse_own_attention(record, decoder, name, field=field)
    _refuse_variants(record, name, field=field)
    if record.random:
        raise UserError(
            f"{field}: {name} is random in training mode even with every drop-out at 0 "
            f"({record.random[0]}), so log-probs could not be compared between policies; "
            f"{_WAY_OUT}"
        )
    if not is_classifier:
        _refuse_changed_logits(model, decoder, output, name, field=field)
    return found


def _forward(model: Any, decoder: nn.Module, name: str, *, field: str) -> tuple[_Record, Any]:
    """Run the decoder on the meta device; no output when it needs numbers to run at all."""
    from transformers import AttentionInterface

    record = _Record()
    AttentionInterface.register(_ATTENTION, record.attend)
    with reading_model(f"{field}: {name} cannot be trained on packed tokens"):
        model.set_attn_implementation(_ATTENTION)
        if model._can_set_experts_implementation():
            # The default sorts tokens by expert, which nobody can do without numbers.
            model.set_experts_implementation("batched_mm")
        model.train()
        try:
            with record, torch.no_grad():
                output = decoder(
                    input_ids=torch.zeros(1, _NUM_TOKENS, dtype=torch.int64, device="meta"),
                    position_ids=torch.arange(_NUM_TOKENS, device="meta")[None],
                    attention_mask=None,
                    use_cache=False,
                    packed_layout="a layout",
                )
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error):
                raise
            log.info("%s cannot be tried without its weights: %s", name, error)
            return record, None
    return record, output


def _refuse_own_attention(record: _Record, decoder: Any, name: str, *, field: str) -> None:
    layers = decoder.config.num_hidden_layers
    if len(record.calls) < layers:
        raise UserError(
            f"{field}: only {len(record.calls)} of the {layers} layers of {name} compute "
            "attention through transformers' attention interface; the others would mix the "
            f"sequences of a packed batch. It cannot be trained here; {_WAY_OUT}"
        )
    if not all(call.has_layout for call in record.calls):
        raise UserError(
            f"{field}: {name} does not hand the borders between packed sequences to its "
            f"attention, so tokens of one would see those of another; {_WAY_OUT}"
        )
    if not all(call.is_causal for call in record.calls):
        raise UserError(
            f"{field}: {name} attends in both directions, and a policy must be causal; {_WAY_OUT}"
        )


def _refuse_variants(record: _Record, name: str, *, field: str) -> None:
    for call in record.calls:
        for variant, value in call.variants.items():
            number = f"={value}" if isinstance(value, int | float) else ""
            raise UserError(
                f"{field}: {name} computes attention with {_VARIANTS[variant]} "
                f"({variant}{number}), which packed training does not implement; {_WAY_OUT}"
            )


def _reach(record: _Record, config: Any) -> int | None:
    """The shortest window or chunk of any layer that does not ask its attention for it."""
    kinds = list(getattr(config, "layer_types", None) or ())
    sliding, window = "sliding_attention", getattr(config, "sliding_window", None)
    asked = sum(call.window is not None for call in record.calls)
    limits = [window] if kinds.count(sliding) > asked else []
    if "chunked_attention" in kinds:
        limits.append(getattr(config, "attention_chunk_size", None))
    return min((limit for limit in limits if limit is not None), default=None)


def _refuse_changed_logits(model: Any, decoder: Any, output: Any, name: str, *, field: str) -> None:
    """Training makes logits of the hidden state by itself: nothing else may come after it."""
    head = model.get_output_embeddings()
    dtype = head.weight.dtype
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = nn.Linear(head.in_features, 8, bias=head.bias is not None, dtype=dtype)
        # Large enough for a cap of the logits to bite.
        hidden_1TE = 100 * torch.randn(1, _NUM_TOKENS, head.in_features, dtype=dtype)
    output.last_hidden_state = hidden_1TE
    model.set_output_embeddings(small)
    decoder.forward = lambda *_, **__: output
    ids_1T = torch.zeros(1, _NUM_TOKENS, dtype=torch.int64)
    with reading_model(f"{field}: {name} cannot be trained on packed tokens"), torch.no_grad():
        logits = model(input_ids=ids_1T, use_cache=False).logits
        expected = logits_of(model)(hidden_1TE)
    if torch.allclose(logits.float(), expected.float(), rtol=0.02, atol=0.02):
        return
    config = model.config.get_text_config()
    settings = [f"{k}={v}" for k, v in config.to_dict().items() if "logit" in k and v is not None]
    raise UserError(
        f"{field}: {name} changes its logits after the output head"
        f"{' (' + ', '.join(settings) + ')' if settings else ''}, which packed training does not "
        f"implement; {_WAY_OUT}"
    )
