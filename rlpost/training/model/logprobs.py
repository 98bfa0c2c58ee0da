"""Log-probability, entropy and rank of chosen tokens, without ever holding all logits.

Owns the path from hidden states to (R,) numbers. Invariant: beyond the chunk in work no
logits stay alive, in the forward or in the backward pass; they are recomputed there.
Temperature divides the logits here, as it did in the sampler.

The head is called as a module, never through its weight, and once for all chunks: ZeRO-3's
hooks gather the weight around the call (``through_head``). Logits leave the head in the compute
dtype (as in vLLM) and everything after it is float32.

That arithmetic is a dozen passes over (C, V) numbers in float32, which would take longer than
the head's matrix products. On CUDA torch.compile fuses them into a kernel each way; on a CPU a
few rows at a time go through all of them while they are in the cache.

Legend: T packed tokens, E width, R scored tokens, C a chunk of them, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlpost.algorithms.rows import by_rows, scaled
from rlpost.training.model.attention_segment import soft_capped

T = TypeVar("T")
Logits = Callable[[Tensor], Tensor]  # from hidden states, (C, E), to (C, V)


def logits_of(model: Any, *, inside: bool = False) -> Logits:
    """Return how a causal language model makes logits of its decoder's last hidden states.

    That is its output head, and what Gemma calls ``final_logit_softcapping`` behind it. ``inside``
    a call of the head its hooks have run already.
    """
    module = model.get_output_embeddings()
    head: Logits = module.forward if inside else module
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return head if cap is None else lambda hidden_CE: soft_capped(head(hidden_CE), cap)


def through_head(model: Any, score: Callable[[Logits, Tensor], T], hidden_TE: Tensor) -> T:
    """Score hidden states in a single call of the model's output head, however often it is asked.

    ZeRO-3 gathers a module's weights around each of its calls, and all ranks must gather equally
    often and in one order. Ranks have different numbers of chunks, so a call for each of them would
    have one rank wait for a gather that the others never begin.

    Args:
        model: a causal language model.
        score: what is computed, given how logits are made and ``hidden_TE``.
        hidden_TE: its last hidden states.
    """
    head, logits = model.get_output_embeddings(), logits_of(model, inside=True)
    own = vars(head).get("forward")  # a library may have put one there
    head.forward = functools.partial(score, logits)
    try:
        return head(hidden_TE)
    finally:
        if own is None:
            del head.forward
        else:
            head.forward = own


def token_logprobs(
    hidden_TE: Tensor,
    head: Logits,
    *,
    read_R: Tensor,
    target_R: Tensor,
    temperature: float,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score ``target_R`` from the hidden states at ``read_R``.

    Args:
        hidden_TE: final hidden states.
        head: maps (C, E) to (C, V) logits.
        read_R: index in T of the token before each target.
        target_R: token ids.
        temperature: divides the logits; positive.
        chunk: rows whose logits exist at once.

    Returns:
        Log-probabilities (nats) and entropies (nats), float32, and whether no token is more
        likely than the target, bool; each of shape (R,).
    """
    assert temperature > 0

    def score(hidden_CE: Tensor, target_C: Tensor) -> tuple[Tensor, ...]:
        return _LogprobEntropy.apply(head(hidden_CE), target_C, temperature)

    logprob_R, entropy_R, is_top_R = in_chunks(score, hidden_TE[read_R], target_R, chunk=chunk)
    return logprob_R, entropy_R, is_top_R


def in_chunks(
    score: Callable[..., tuple[Tensor, ...]], *columns_R: Tensor, chunk: int
) -> tuple[Tensor, ...]:
    """Score rows chunk by chunk, so that the logits of one chunk alone exist at a time.

    Args:
        score: maps columns of shape (C, ..) to results of shape (C,).
        *columns_R: what it reads of each row, (R, ..).
        chunk: rows of a call.

    Returns:
        The results of all rows, (R,). In the backward pass each chunk is computed again.
    """
    assert chunk > 0
    chunks = list(zip(*(column_R.split(chunk) for column_R in columns_R), strict=True))
    parts = []
    for i, columns_C in enumerate(chunks):
        # The last chunk is the first that backward needs, so recomputing it saves nothing.
        if torch.is_grad_enabled() and i + 1 < len(chunks):
            part = checkpoint(score, *columns_C, use_reentrant=False, preserve_rng_state=False)
        else:
            part = score(*columns_C)
        parts.append(part)
    return tuple(torch.cat(results) for results in zip(*parts, strict=True))


class _LogprobEntropy(torch.autograd.Function):
    """(C, V) logits -> log p(target), H, and whether no logit is above the target's.

    Keeps the logits and two columns for backward.

    With z = logits / temperature and p = softmax(z): d log p_t / dz = onehot_t - p and
    dH / dz_j = -p_j (log p_j + H).
    """

    @staticmethod
    def forward(
        ctx: Any, logits_CV: Tensor, target_C: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if logits_CV.is_cuda:
            scores = _fused(_score)(logits_CV, target_C, temperature)
        else:
            parts = by_rows(_score, logits_CV, target_C, temperature)
            scores = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        logprob_C, entropy_C, is_top_C, normaliser_C1 = scores
        ctx.save_for_backward(logits_CV, target_C, normaliser_C1, entropy_C)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)  # an entropy that is only reported costs nothing
        ctx.mark_non_differentiable(is_top_C)
        return logprob_C, entropy_C, is_top_C

    @staticmethod
    def backward(
        ctx: Any, grad_logprob_C: Tensor | None, grad_entropy_C: Tensor | None, _: None
    ) -> tuple[Tensor | None, None, None]:
        logits_CV, target_C, normaliser_C1, entropy_C = ctx.saved_tensors
        args = (
            logits_CV,
            target_C,
            normaliser_C1,
            entropy_C,
            ctx.temperature,
            grad_logprob_C,
            grad_entropy_C,
        )
        if logits_CV.is_cuda:
            return _fused(_gradient_in_one)(*args), None, None
        return torch.cat(list(by_rows(_gradient, *args))), None, None


@functools.cache
def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for any chunk length: torch keeps few versions of a function."""
    compiled = torch.compile(function)

    def run(*args: Any) -> Any:
        args = tuple(arg.detach() if isinstance(arg, Tensor) else arg for arg in args)
        for arg in args:  # detached above: whether one wants a gradient would be a version too
            if isinstance(arg, Tensor):
                torch._dynamo.maybe_mark_dynamic(arg, 0)
        return compiled(*args)

    return run


def _score(
    logits_CV: Tensor, target_C: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-prob, entropy, top or not, and the normaliser, (C, 1), for the backward pass."""
    scaled_CV = scaled(logits_CV, temperature)
    largest_C1 = scaled_CV.amax(1, keepdim=True)
    exp_CV = (scaled_CV - largest_C1).exp_()  # logsumexp would compute it and throw it away
    total_C1 = exp_CV.sum(1, keepdim=True)
    normaliser_C1 = largest_C1 + total_C1.log()
    target_C1 = scaled_CV.gather(1, target_C[:, None])
    logprob_C = (target_C1 - normaliser_C1).squeeze(1)
    is_top_C = (target_C1 >= largest_C1).squeeze(1)
    expected_C = torch.linalg.vecdot(exp_CV, scaled_CV) / total_C1.squeeze(1)
    return logprob_C, normaliser_C1.squeeze(1) - expected_C, is_top_C, normaliser_C1


def _gradient(
    logits_CV: Tensor,
    target_C: Tensor,
    normaliser_C1: Tensor,
    entropy_C: Tensor,
    temperature: float,
    grad_logprob_C: Tensor | None,
    grad_entropy_C: Tensor | None,
) -> Tensor:
    """With respect to the logits, in one (C, V) buffer: the factor of -p, then the result."""
    log_CV = scaled(logits_CV, temperature) - normaliser_C1
    factor: Tensor | float
    if grad_entropy_C is None:
        probs_CV, factor = log_CV.exp_(), 0.0
    else:
        probs_CV = log_CV.exp()
        factor = log_CV.add_(entropy_C[:, None]).mul_(grad_entropy_C[:, None])
    if grad_logprob_C is not None:
        factor = grad_logprob_C[:, None] + factor
    grad_CV = probs_CV.mul_(factor).neg_()
    if grad_logprob_C is not None:
        grad_CV.scatter_add_(1, target_C[:, None], grad_logprob_C[:, None])
    return grad_CV.div_(temperature).to(logits_CV.dtype)


def _gradient_in_one(
    logits_CV: Tensor,
    target_C: Tensor,
    normaliser_C1: Tensor,
    entropy_C: Tensor,
    temperature: float,
    grad_logprob_C: Tensor | None,
    grad_entropy_C: Tensor | None,
) -> Tensor:
    """The same without a scatter, which would end a fused kernel."""
    log_CV = scaled(logits_CV, temperature) - normaliser_C1
    grad_CV = torch.zeros_like(log_CV)
    if grad_logprob_C is not None:
        column_V = torch.arange(log_CV.shape[1], device=log_CV.device)
        is_target_CV = (column_V == target_C[:, None]).float()
        grad_CV = grad_logprob_C[:, None] * (is_target_CV - log_CV.exp())
    if grad_entropy_C is not None:
        grad_CV -= grad_entropy_C[:, None] * log_CV.exp() * (log_CV + entropy_C[:, None])
    return (grad_CV / temperature).to(logits_CV.dtype)
