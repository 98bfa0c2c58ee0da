"""How far a student's distribution over the next token is from its teacher's.

Owns the generalised Jensen-Shannon divergence and its gradient, of two whole distributions or of
what is known of the teacher's (top_tokens.py). Refuses to own where logits come from and which rows
exist at once (training/model/divergence_head.py), masks and denominators.
Invariants: the gradient reaches the student alone; beyond the logits that are given, float32
numbers exist for a few rows at a time, in the forward and in the backward pass.

With p the teacher's and q the student's distribution at the temperature, and m = beta p +
(1 - beta) q, the divergence is beta KL(p || m) + (1 - beta) KL(q || m) (GKD, arXiv 2306.13649).
At beta = 0 and beta = 1 that would be 0 everywhere, so there it is what it tends to when it is
divided by beta or by 1 - beta: KL(p || q), forward, and KL(q || p), reverse.

Models of one family pad their vocabularies to different sizes. What is compared are then the
distributions over the tokens that exist: both are renormalised, and padding gets no gradient.

Legend: C rows, V vocabulary, X tokens that exist, or other outcomes. Divergences, entropies and
log-probs are nats in float32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlpost.algorithms.rows import by_rows, scaled
from rlpost.bounds import number

LEAST = -1e30  # of a log-prob: 0 * inf is nan


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


class KnownTeacher(Protocol):
    """How a student is compared with what is known of its teacher; tensors have C rows.

    ``compared`` takes the student's logits, the targets and what is known, and returns the fields
    of ``ComparedTokens``. ``gradient`` takes the student's logits, the divergences and what is
    known, and returns the divergences' gradient with respect to the logits, (C, X), float32, as if
    they had been divided by the temperature before.
    """

    @property
    def compared(self) -> Callable[..., tuple[Tensor, ...]]: ...

    @property
    def gradient(self) -> Callable[..., Tensor]: ...

    @property
    def temperature(self) -> float:
        """Of the divergence."""
        ...


@dataclass(frozen=True, kw_only=True)
class StudentLogits:
    """How a student's logits are read.

    ``vocabulary`` is how many tokens exist, X; what a model has behind them is padding.
    ``temperature`` is that of the log-probs, which are over all of V; it does not touch the
    divergence.
    """

    config: DivergenceConfig
    vocabulary: int
    temperature: float = 1.0

    def log_softmax(self, logits_CV: Tensor) -> Tensor:
        """Return log-probs over the tokens that exist at the divergence's temperature, (C, X)."""
        return _log_softmax(logits_CV[:, : self.vocabulary], self.config.temperature)

    def compared(
        self,
        student_CV: Tensor,
        target_C: Tensor,
        *,
        divergence_C: Tensor,
        logq_CX: Tensor,
        teachers_top_C: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the fields of ``ComparedTokens``; ``logq_CX`` is the student's log_softmax."""
        of_all_CV, vocabulary = logq_CX, student_CV.shape[1]
        if self.temperature != self.config.temperature or self.vocabulary < vocabulary:
            of_all_CV = _log_softmax(student_CV, self.temperature)
        logprob_C = of_all_CV.gather(1, target_C[:, None]).squeeze(1)
        return (
            divergence_C,
            logprob_C,
            -_expected(logq_CX.exp(), logq_CX),
            logprob_C >= of_all_CV.amax(1),
            logq_CX.argmax(1) == teachers_top_C,
        )


def compare(
    student_CV: Tensor, teacher_CV: Tensor, target_C: Tensor, logits: StudentLogits
) -> ComparedTokens:
    """Compare the distributions of a student and its teacher.

    Args:
        student_CV: logits.
        teacher_CV: logits of the same rows; V may differ.
        target_C: token ids that the log-probs are of.
        logits: the divergence, and how the student's logits are read.
    """
    assert logits.vocabulary <= min(student_CV.shape[1], teacher_CV.shape[1]), logits
    return compared(_Whole(logits=logits), student_CV, target_C, teacher_CV)


def compared(
    comparison: KnownTeacher, student_CV: Tensor, target_C: Tensor, *teacher: Tensor
) -> ComparedTokens:
    """Compare a student with what is known of its teacher, with a gradient to the student alone.

    Args:
        comparison: how.
        student_CV: logits.
        target_C: token ids that the log-probs are of.
        *teacher: what is known, (C, ..).
    """
    known = (each.detach() for each in teacher)
    return ComparedTokens(*_Compare.apply(comparison, student_CV, target_C, *known))


def log_divergence(logp_CX: Tensor, logq_CX: Tensor, *, beta: float) -> Tensor:
    """Return the divergence of each row, (C,), of log-probs that are at least ``LEAST``."""
    if beta == 0:
        return _expected(logp_CX.exp(), logp_CX - logq_CX)
    q_CX = logq_CX.exp()
    if beta == 1:
        return _expected(q_CX, logq_CX - logp_CX)
    logm_CX = _log_mixture(logp_CX, logq_CX, beta)
    divergence_C = beta * _expected(logp_CX.exp(), logp_CX - logm_CX)
    divergence_C += (1 - beta) * _expected(q_CX, logq_CX - logm_CX)
    return divergence_C


def log_gradient(logp_CX: Tensor, logq_CX: Tensor, divergence_C: Tensor, *, beta: float) -> Tensor:
    """Return the gradient with respect to logits of q, (C, X); the log-probs are overwritten.

    With q = softmax(z): dq_j / dz_k = q_j (1[j = k] - q_k). Forward: dD / dz = q - p. Else with
    g = dD / dq up to a constant, g = log q / p (reverse) or (1 - beta) log q / m, and dD / dz =
    q (g - E_q g).
    """
    q_CX = logq_CX.exp()
    if beta == 0:
        return q_CX.sub_(logp_CX.exp_())
    if beta == 1:
        return logq_CX.sub_(logp_CX).sub_(divergence_C[:, None]).mul_(q_CX)
    ratio_CX = logq_CX.sub(_log_mixture(logp_CX, logq_CX, beta))
    mean_C = _expected(q_CX, ratio_CX)
    return ratio_CX.sub_(mean_C[:, None]).mul_(q_CX).mul_(1 - beta)


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """The teacher's logits are known, of all tokens."""

    logits: StudentLogits

    @property
    def temperature(self) -> float:
        return self.logits.config.temperature

    def compared(
        self, student_CV: Tensor, target_C: Tensor, teacher_CV: Tensor
    ) -> tuple[Tensor, ...]:
        logp_CX, logq_CX = map(self.logits.log_softmax, (teacher_CV, student_CV))
        return self.logits.compared(
            student_CV,
            target_C,
            divergence_C=log_divergence(logp_CX, logq_CX, beta=self.logits.config.beta),
            logq_CX=logq_CX,
            teachers_top_C=logp_CX.argmax(1),
        )

    def gradient(self, student_CV: Tensor, divergence_C: Tensor, teacher_CV: Tensor) -> Tensor:
        logp_CX, logq_CX = map(self.logits.log_softmax, (teacher_CV, student_CV))
        return log_gradient(logp_CX, logq_CX, divergence_C, beta=self.logits.config.beta)


class _Compare(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, comparison: KnownTeacher, student_CV: Tensor, target_C: Tensor, *teacher: Tensor
    ) -> tuple[Tensor, ...]:
        parts = by_rows(comparison.compared, student_CV, target_C, *teacher)
        found = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(student_CV, found[0], *teacher)
        ctx.comparison = comparison
        ctx.mark_non_differentiable(*found[1:])
        return found

    @staticmethod
    def backward(ctx: Any, grad_C: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        student_CV, divergence_C, *teacher = ctx.saved_tensors
        comparison = ctx.comparison

        def part(student_CV: Tensor, grad_C: Tensor, *known: Tensor) -> Tensor:
            grad_CX = comparison.gradient(student_CV, *known)
            grad_CX.mul_(grad_C[:, None] / comparison.temperature)
            padding = student_CV.shape[1] - grad_CX.shape[1]
            return pad(grad_CX.to(student_CV.dtype), (0, padding))

        parts = by_rows(part, student_CV, grad_C, divergence_C, *teacher)
        return None, torch.cat(list(parts)), None, *(None for _ in teacher)


def _log_softmax(logits_CV: Tensor, temperature: float) -> Tensor:
    return scaled(logits_CV, temperature).log_softmax(1).clamp_min_(LEAST)


def _log_mixture(logp_CX: Tensor, logq_CX: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(logp_CX + math.log(beta), logq_CX + math.log1p(-beta))


def _expected(probs_CX: Tensor, values_CX: Tensor) -> Tensor:
    expected_C: Tensor = torch.linalg.vecdot(probs_CX, values_CX)
    return expected_C
