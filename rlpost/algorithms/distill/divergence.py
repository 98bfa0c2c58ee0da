"""How far a student's distribution over the next token is from its teacher's.

Owns the generalised Jensen-Shannon divergence and its gradient. Refuses to own where logits come
from and which rows exist at once (training/model/divergence_head.py), masks and denominators.
Invariants: the gradient reaches the student alone; beyond the logits that are given, float32
numbers exist for a few rows at a time, in the forward and in the backward pass.

With p the teacher's and q the student's distribution at the temperature, and m = beta p +
(1 - beta) q, the divergence is beta KL(p || m) + (1 - beta) KL(q || m) (GKD, arXiv 2306.13649).
At beta = 0 and beta = 1 that would be 0 everywhere, so there it is what it tends to when it is
divided by beta or by 1 - beta: KL(p || q), forward, and KL(q || p), reverse.

Models of one family pad their vocabularies to different sizes. What is compared are then the
distributions over the tokens that exist: both are renormalised, and padding gets no gradient.

Legend: C rows, V vocabulary, X tokens that exist. Divergences, entropies and log-probs are nats in
float32.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlpost.algorithms.rows import by_rows, scaled
from rlpost.bounds import number

_LEAST = -1e30  # of a log-prob: 0 * inf is nan


@dataclass(kw_only=True)
class DivergenceConfig:
    """Which divergence between teacher and student is minimised."""

    beta: float = number(
        0.5,
        at_least=0,
        at_most=1,
        hint="0 is the forward KL, 1 the reverse KL, between them the Jensen-Shannon divergence",
        help="0: forward KL, covers all the teacher does; 1: reverse KL, seeks what it does most",
    )
    temperature: float = number(
        1.0,
        at_least=0.01,
        at_most=100,
        hint="1 compares the distributions as they are",
        help="divides the logits of both before they are compared; the loss is not scaled back",
    )


class ComparedTokens(NamedTuple):
    """What two models say of the same rows, (C,)."""

    divergence_C: Tensor  # with a gradient
    logprob_C: Tensor  # of the target, by the student, at the temperature that is asked for
    entropy_C: Tensor  # of the student, at the divergence's temperature
    is_top_C: Tensor  # bool: the student finds no token more likely than the target
    agrees_C: Tensor  # bool: both find the same token most likely


def compare(
    student_CV: Tensor,
    teacher_CV: Tensor,
    target_C: Tensor,
    config: DivergenceConfig,
    *,
    vocabulary: int,
    temperature: float = 1.0,
) -> ComparedTokens:
    """Compare the distributions of a student and its teacher.

    Args:
        student_CV: logits.
        teacher_CV: logits of the same rows; V may differ.
        target_C: token ids that the log-probs are of.
        config: the divergence.
        vocabulary: how many tokens exist, X; what both models have behind them is padding.
        temperature: of the log-probs, which are over all of V; it does not touch the divergence.
    """
    assert vocabulary <= min(student_CV.shape[1], teacher_CV.shape[1]), vocabulary
    asked = _Asked(config=config, vocabulary=vocabulary, temperature=temperature)
    return ComparedTokens(*_Compare.apply(student_CV, teacher_CV.detach(), target_C, asked))


@dataclass(frozen=True, kw_only=True)
class _Asked:
    config: DivergenceConfig
    vocabulary: int
    temperature: float

    def logs(self, student_CV: Tensor, teacher_CV: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probs over the tokens that exist: the teacher's and the student's, (C, X)."""
        logp_CX, logq_CX = (
            _log_softmax(logits_CV[:, : self.vocabulary], self.config.temperature)
            for logits_CV in (teacher_CV, student_CV)
        )
        return logp_CX, logq_CX


class _Compare(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_CV: Tensor,
        teacher_CV: Tensor,
        target_C: Tensor,
        asked: _Asked,
    ) -> tuple[Tensor, ...]:
        parts = by_rows(_compared, student_CV, teacher_CV, target_C, asked)
        found = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(student_CV, teacher_CV, found[0])
        ctx.asked = asked
        ctx.mark_non_differentiable(*found[1:])
        return found

    @staticmethod
    def backward(ctx: Any, grad_C: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        student_CV, teacher_CV, divergence_C = ctx.saved_tensors
        parts = by_rows(_gradient, student_CV, teacher_CV, divergence_C, grad_C, ctx.asked)
        return torch.cat(list(parts)), None, None, None


def _compared(
    student_CV: Tensor, teacher_CV: Tensor, target_C: Tensor, asked: _Asked
) -> tuple[Tensor, ...]:
    logp_CX, logq_CX = asked.logs(student_CV, teacher_CV)
    q_CX, beta = logq_CX.exp(), asked.config.beta
    if beta == 0:
        divergence_C = _expected(logp_CX.exp(), logp_CX - logq_CX)
    elif beta == 1:
        divergence_C = _expected(q_CX, logq_CX - logp_CX)
    else:
        logm_CX = _log_mixture(logp_CX, logq_CX, beta)
        divergence_C = beta * _expected(logp_CX.exp(), logp_CX - logm_CX)
        divergence_C += (1 - beta) * _expected(q_CX, logq_CX - logm_CX)
    of_all_CV = logq_CX
    if asked.temperature != asked.config.temperature or asked.vocabulary < student_CV.shape[1]:
        of_all_CV = _log_softmax(student_CV, asked.temperature)
    logprob_C = of_all_CV.gather(1, target_C[:, None]).squeeze(1)
    return (
        divergence_C,
        logprob_C,
        -_expected(q_CX, logq_CX),
        logprob_C >= of_all_CV.amax(1),
        logq_CX.argmax(1) == logp_CX.argmax(1),
    )


def _gradient(
    student_CV: Tensor, teacher_CV: Tensor, divergence_C: Tensor, grad_C: Tensor, asked: _Asked
) -> Tensor:
    """With respect to the student's logits.

    With q = softmax(z): dq_j / dz_k = q_j (1[j = k] - q_k). Forward: dD / dz = q - p. Else with
    g = dD / dq up to a constant, g = log q / p (reverse) or (1 - beta) log q / m, and dD / dz =
    q (g - E_q g).
    """
    logp_CX, logq_CX = asked.logs(student_CV, teacher_CV)
    q_CX, beta = logq_CX.exp(), asked.config.beta
    if beta == 0:
        grad_CX = q_CX.sub_(logp_CX.exp_())
    elif beta == 1:
        grad_CX = logq_CX.sub_(logp_CX).sub_(divergence_C[:, None]).mul_(q_CX)
    else:
        ratio_CX = logq_CX.sub(_log_mixture(logp_CX, logq_CX, beta))
        mean_C = _expected(q_CX, ratio_CX)
        grad_CX = ratio_CX.sub_(mean_C[:, None]).mul_(q_CX).mul_(1 - beta)
    grad_CX.mul_(grad_C[:, None] / asked.config.temperature)
    return pad(grad_CX.to(student_CV.dtype), (0, student_CV.shape[1] - asked.vocabulary))


def _log_softmax(logits_CV: Tensor, temperature: float) -> Tensor:
    return scaled(logits_CV, temperature).log_softmax(1).clamp_min_(_LEAST)


def _log_mixture(logp_CX: Tensor, logq_CX: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(logp_CX + math.log(beta), logq_CX + math.log1p(-beta))


def _expected(probs_CX: Tensor, values_CX: Tensor) -> Tensor:
    expected_C: Tensor = torch.linalg.vecdot(probs_CX, values_CX)
    return expected_C
