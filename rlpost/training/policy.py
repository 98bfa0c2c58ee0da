"""A causal LM that scores packed tokens: micro-batch in, log-probs and entropy out.

Owns the loading of a Hugging Face causal LM for training and its forward pass. Refuses to
own the engine around it and the loss. Invariants: drop-out is off (a ratio of 1 must stay
1); ``use_cache`` is off and there is no attention mask (with either, tokens of one sequence
would leak into the next); a model that packed training would compute wrongly is refused
when it is loaded, by comparing it with its own plain forward pass.

Legend: T packed tokens, R response tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlpost.errors import UserError
from rlpost.training.attention import ATTENTION, PackedLayout, register_packed_attention
from rlpost.training.batch import TokenBatch
from rlpost.training.logprobs import token_logprobs
from rlpost.training.precision import on_device
from rlpost.training.scoring import scoring_batch


@dataclass(frozen=True, kw_only=True)
class PolicyInputs:
    """What the forward pass needs of a TokenBatch, on the device."""

    token_ids_1T: Tensor
    position_ids_1T: Tensor
    predictor_R: Tensor
    target_R: Tensor
    layout: PackedLayout

    @classmethod
    def of(cls, batch: TokenBatch, *, device: torch.device) -> "PolicyInputs":
        return cls(
            token_ids_1T=on_device(batch.token_ids_T, device)[None],
            position_ids_1T=on_device(batch.position_ids_T, device)[None],
            predictor_R=on_device(batch.predictor_R, device),
            target_R=on_device(batch.target_R, device),
            layout=PackedLayout.of(batch.blocks, device=device),
        )


def packed_hidden(decoder: nn.Module, inputs: PolicyInputs) -> Tensor:
    """Return the decoder's last hidden states, (T, E), without a leak between sequences."""
    hidden_1TE = decoder(
        input_ids=inputs.token_ids_1T,
        position_ids=inputs.position_ids_1T,
        attention_mask=None,
        use_cache=False,
        packed_layout=inputs.layout,
    ).last_hidden_state
    return hidden_1TE[0]


class Policy(nn.Module):
    """Wraps ``model``, whose parameters keep their Hugging Face names under ``self.model``."""

    def __init__(self, model: nn.Module, *, logprob_chunk: int) -> None:
        super().__init__()
        self.model = model
        self._chunk = logprob_chunk

    def forward(
        self, inputs: PolicyInputs, *, temperature: float, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return log-probs and entropies (nats, float32, (R,)) of the response tokens."""
        return token_logprobs(
            packed_hidden(self.model.get_decoder(), inputs),
            self.model.get_output_embeddings(),
            predictor_R=inputs.predictor_R,
            target_R=inputs.target_R,
            temperature=temperature,
            chunk=self._chunk,
            entropy_gradient=entropy_gradient,
        )


def load_policy(
    model_path: str, *, dtype: torch.dtype, logprob_chunk: int, gradient_checkpointing: bool = False
) -> Policy:
    """Load a local model directory or hub id onto the CPU.

    Raises:
        UserError: there is no causal LM there, or its architecture cannot be packed.
    """
    from transformers import AutoModelForCausalLM

    register_packed_attention()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=dtype, attn_implementation=ATTENTION
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"model.path: {model_path!r} cannot be loaded as a causal language model for packed "
            f"training: {error}"
        ) from error
    _refuse_without_parts(model)
    switch_off_dropout(model)
    policy = Policy(model, logprob_chunk=logprob_chunk)
    verify_packing(policy)
    if gradient_checkpointing:
        checkpoint_layers(model)
    return policy.train()  # layers checkpoint only in training mode; nothing else differs


def checkpoint_layers(model: nn.Module) -> None:
    """Recompute each layer's activations in the backward pass."""
    model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})


def _refuse_without_parts(model: nn.Module) -> None:
    decoder = model.get_decoder()
    separable = decoder is not model and model.get_output_embeddings() is not None
    if not (separable and model._supports_attention_backend):
        raise UserError(
            f"model.path: {type(model).__name__} has no replaceable attention or no separate "
            "decoder and head, so it cannot be trained on packed tokens; use a model of a plain "
            "decoder architecture such as Llama or Qwen"
        )


def switch_off_dropout(model: nn.Module) -> None:
    """Set every drop-out probability in ``model`` to 0."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def verify_packing(policy: Policy) -> None:
    """Compare the packed forward pass with the model's own on two short sequences.

    Finds models that ignore the packed attention (tokens leak) or that do more than apply a
    head to the last hidden state (logit scaling or capping). Cost: a few tokens.

    Raises:
        UserError: they differ by more than rounding.
    """
    model = policy.model
    device = next(model.parameters()).device
    vocabulary = model.get_input_embeddings().weight.shape[0]
    prompt, first, second = ([(7 * i + k) % vocabulary for i in range(4)] for k in (1, 3, 5))
    batch = scoring_batch([(prompt, [first, second])])
    training = model.training
    model.eval()
    with torch.no_grad():
        packed_R, _ = policy(PolicyInputs.of(batch, device=device), temperature=1.0)
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
        plain = [_plain_logprobs(model, prompt, response) for response in (first, second)]
        model.set_attn_implementation(ATTENTION)
    model.train(training)
    difference = (packed_R - torch.cat(plain)).abs().mean().item()
    bound = 1e-3 if packed_R.dtype == next(model.parameters()).dtype else 0.25
    if not difference < bound:
        raise UserError(
            f"model.path: {type(model).__name__} gives other log-probs on packed tokens than on "
            f"single sequences (mean difference {difference:.3g} nats, bound {bound}), so it "
            "cannot be trained here; use a model of a plain decoder architecture such as Llama "
            "or Qwen"
        )


def _plain_logprobs(model: nn.Module, prompt: list[int], response: list[int]) -> Tensor:
    device = next(model.parameters()).device
    ids_1T = torch.tensor([prompt + response], device=device)
    logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0].float()
    start = len(prompt)
    target_R = ids_1T[0, start:]
    return logits_TV[start - 1 : -1].log_softmax(-1).gather(1, target_R[:, None]).squeeze(1)
