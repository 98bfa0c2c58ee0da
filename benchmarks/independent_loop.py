"""The fastest training step on a CPU that we know without rlpost: torch and transformers alone.

It is the bound of `trainer_throughput.py`, so it imports nothing of rlpost. Every prompt is
computed once for all its responses: the tokens of all prompts, then those of all responses, go
through transformers' decoder as one row, and attention takes them as two batches. That needs
prompts of one length and responses of one length. No diagnostics, no entropy.

Legend: P prompts, G responses to each, S = P * G, A / B tokens of a prompt / response, H heads,
K key-value heads, D head width, E width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface, AutoModelForCausalLM

NAME = "independent"
ROWS = 64  # of logits whose float32 copies exist at once


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Token ids and the gradient's weight of every response's log-probs."""

    prompt_PA: Tensor
    response_SB: Tensor
    weight_S: Tensor


def independent_step(model_path: str, samples: Samples, dtype: torch.dtype) -> Callable[[], None]:
    """Load the model; returns its training step: the gradient of sum(weight * log-prob)."""
    AttentionInterface.register(NAME, _attention)
    model = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=dtype, attn_implementation=NAME
    ).train()
    params = list(model.parameters())
    low = dtype is not torch.float32
    masters = [p.detach().float().clone() if low else p for p in params]
    adam = torch.optim.AdamW(masters, lr=1e-6, weight_decay=0.0, fused=True)

    def step() -> None:
        (-_weighted_logprobs(model, samples)).backward()
        if low:
            for master, param in zip(masters, params, strict=True):
                master.grad, param.grad = param.grad.float(), None
        nn.utils.clip_grad_norm_(masters, 1.0)
        adam.step()
        adam.zero_grad()
        if low:
            torch._foreach_copy_([p.data for p in params], masters)

    return step


def _weighted_logprobs(model: nn.Module, samples: Samples) -> Tensor:
    (P, A), (S, B) = samples.prompt_PA.shape, samples.response_SB.shape
    ids = torch.cat([samples.prompt_PA.flatten(), samples.response_SB.flatten()])
    positions = torch.cat([torch.arange(A).repeat(P), torch.arange(A, A + B).repeat(S)])
    hidden_TE = model.get_decoder()(
        input_ids=ids[None],
        position_ids=positions[None],
        attention_mask=None,
        use_cache=False,
        shape=(P, A, S, B),
    ).last_hidden_state[0]
    prompts_PAE, responses_SBE = (
        part.view(n, length, -1)
        for part, n, length in zip(hidden_TE.split([P * A, S * B]), (P, S), (A, B), strict=True)
    )
    last_S1E = prompts_PAE[:, -1:].repeat_interleave(S // P, dim=0)
    predictors_RE = torch.cat([last_S1E, responses_SBE[:, :-1]], dim=1).flatten(0, 1)
    logits_RV = model.get_output_embeddings()(predictors_RE)
    parts = zip(logits_RV.split(ROWS), samples.response_SB.flatten().split(ROWS), strict=True)
    losses = [cross_entropy(logits.float(), target, reduction="none") for logits, target in parts]
    return -(samples.weight_S[:, None] * torch.cat(losses).view(S, B)).sum()


def _attention(
    module: nn.Module,
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    shape: tuple[int, int, int, int],
    **_: object,
) -> tuple[Tensor, None]:
    P, A, S, B = shape
    qkv = [
        [
            part.view(part.shape[0], n, length, -1).transpose(0, 1)
            for part, n, length in zip(x[0].split([P * A, S * B], 1), (P, S), (A, B), strict=True)
        ]
        for x in (query_1HTD, key_1KTD, value_1KTD)
    ]
    (q_prompt, q), (k_prompt, k), (v_prompt, v) = qkv
    prompts = _attend(q_prompt, k_prompt, v_prompt, scaling)
    k, v = (
        torch.cat([shared.repeat_interleave(S // P, dim=0), own], dim=2)
        for shared, own in ((k_prompt, k), (v_prompt, v))
    )
    outputs = (prompts, _attend(q, k, v, scaling))
    return torch.cat([o.transpose(1, 2).flatten(0, 1) for o in outputs])[None], None


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """softmax(QK)V written out: for short sequences faster than the CPU's flash kernel."""
    (N, H, Q, D), (K, L) = query.shape, key.shape[1:3]
    future_QL = torch.full((Q, L), -torch.inf, dtype=query.dtype).triu(L - Q + 1)
    grouped = query.reshape(N, K, H // K * Q, D) * scaling
    scores = (grouped @ key.transpose(2, 3)).view(N, H, Q, L) + future_QL
    return (scores.softmax(-1).view(N, K, H // K * Q, L) @ value).view(N, H, Q, D)
