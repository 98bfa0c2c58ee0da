"""A causal LM that scores packed tokens: micro-batch in, log-probs and entropy out.

Owns the loading of a Hugging Face causal LM for training and its forward pass. Refuses to
own the engine around it and the loss. Invariants: drop-out is off (a ratio of 1 must stay
1); ``use_cache`` is off and there is no attention mask (with either, tokens of one sequence
would leak into the next); a model that packed training would compute wrongly is refused
when it is loaded, by comparing it with its own plain forward pass.

Legend: T packed tokens, R response tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlpost.errors import UserError
from rlpost.models.directory.boundary import reading_model
from rlpost.models.directory.model_directory import POLICY_FIELD, ModelDirectory
from rlpost.training.attention import ATTENTION, PackedLayout, register_packed_attention
from rlpost.training.batch import TokenBatch
from rlpost.training.dropout import is_random, switch_off_dropout
from rlpost.training.logprobs import token_logprobs
from rlpost.training.precision import on_device
from rlpost.training.rehearsal import rehearse
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
    """Load a model directory onto the CPU.

    Raises:
        UserError: there is no causal LM there, or its architecture cannot be packed.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    register_packed_attention()
    rehearse(ModelDirectory.read(model_path).shell())
    with reading_model(f"model.path: {model_path} cannot be loaded for packed training"):
        model = AutoModelForCausalLM.from_pretrained(
            model_path,
            dtype=dtype,
            attn_implementation=ATTENTION,
            generation_config=GenerationConfig(),  # export.py reads the file's, and mends it
        )
    refuse_broken_weights(model, field=POLICY_FIELD)
    switch_off_dropout(model)
    policy = Policy(model, logprob_chunk=logprob_chunk)
    verify_packing(policy)
    if gradient_checkpointing:
        checkpoint_layers(model)
    return policy.train()  # layers checkpoint only in training mode; nothing else differs


def checkpoint_layers(model: nn.Module) -> None:
    """Recompute each layer's activations in the backward pass."""
    model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})


def refuse_broken_weights(model: nn.Module, *, field: str) -> None:
    """Raises UserError: a parameter holds something that is not a finite number."""
    for name, param in model.named_parameters():
        if param.numel() and not torch.isfinite(torch.stack(param.detach().aminmax())).all():
            raise UserError(
                f"{field}: {name} holds values that are not finite numbers, so the model was "
                "damaged when it was trained or written; use another copy of it"
            )


def verify_packing(policy: Policy) -> None:
    """Compare the packed forward pass with the model's own on two short sequences.

    The packed pass is in training mode, as in training, and the other one is not: both must
    give the same. Finds models that ignore the packed attention (tokens leak), that are random,
    or that do more than apply a head to the last hidden state. Cost: a few tokens.

    Raises:
        UserError: two packed passes differ, or packed and plain differ by more than rounding.
    """
    model = policy.model
    device = next(model.parameters()).device
    vocabulary = model.get_input_embeddings().weight.shape[0]
    prompt, first, second = ([(7 * i + k) % vocabulary for i in range(4)] for k in (1, 3, 5))
    inputs = PolicyInputs.of(scoring_batch([(prompt, [first, second])]), device=device)
    training = policy.training
    with torch.no_grad():
        policy.train()
        refuse_random(type(model).__name__, lambda: policy(inputs, temperature=1.0)[0])
        packed_R, _ = policy(inputs, temperature=1.0)
        policy.eval()
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
        plain = [_plain_logprobs(model, prompt, response) for response in (first, second)]
        model.set_attn_implementation(ATTENTION)
    policy.train(training)
    difference = (packed_R - torch.cat(plain)).abs().mean().item()
    bound = 1e-3 if packed_R.dtype == next(model.parameters()).dtype else 0.25
    if not difference < bound:
        raise UserError(
            f"model.path: {type(model).__name__} gives other log-probs on packed tokens than on "
            f"single sequences (mean difference {difference:.3g} nats, bound {bound}), so it "
            "cannot be trained here; use a model of a plain decoder architecture such as Llama "
            "or Qwen"
        )


def refuse_random(name: str, forward: Callable[[], Tensor], *, field: str = POLICY_FIELD) -> None:
    """Raises UserError: two forward passes in training mode differ."""
    if is_random(forward):
        raise UserError(
            f"{field}: two forward passes of {name} over the same tokens differ in training "
            "mode, although every drop-out was switched off, so log-probs could not be compared "
            "between policies; use a model of a plain decoder architecture such as Llama or Qwen"
        )


def _plain_logprobs(model: nn.Module, prompt: list[int], response: list[int]) -> Tensor:
    device = next(model.parameters()).device
    ids_1T = torch.tensor([prompt + response], device=device)
    logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0].float()
    start = len(prompt)
    target_R = ids_1T[0, start:]
    return logits_TV[start - 1 : -1].log_softmax(-1).gather(1, target_R[:, None]).squeeze(1)
