"""A student compared with its teacher's most likely tokens, and one bucket of all others.

Owns what is kept of a teacher's distribution and the divergence from it. Refuses to own the formula
(divergence.py) and files (stages/distill/store.py). Invariants: the divergence is that of two
distributions over k + 1 outcomes, so it is never above the one over all tokens, it does not fall
when k grows, and with all tokens kept it is the same; the gradient reaches every logit, because the
bucket is the sum of its tokens.

Legend: C rows, R compared tokens, V vocabulary, X tokens that exist, K tokens that are kept,
B = K + 1 outcomes, of which the last is the bucket.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlpost.algorithms.distill.divergence import (
    LEAST,
    ComparedTokens,
    StudentLogits,
    compared,
    log_divergence,
    log_gradient,
)
from rlpost.algorithms.rows import by_rows, scaled

IDS, LOGS = "teacher_ids_RK", "teacher_logs_RB"  # columns of a batch


class TopTokens(NamedTuple):
    """What is kept of a teacher, most likely token first."""

    ids_RK: Tensor  # int64
    logs_RB: Tensor  # float32, nats: log-probs of the tokens, and of all others together

    @classmethod
    def of(cls, columns: Mapping[str, Tensor]) -> "TopTokens | None":
        """Return what the columns of a batch hold; None: they hold nothing of a teacher."""
        return cls(columns[IDS], columns[LOGS]) if IDS in columns else None


@torch.no_grad()
def top_tokens(logits_CV: Tensor, *, k: int, vocabulary: int, temperature: float) -> TopTokens:
    """Return the ``k`` most likely of the first ``vocabulary`` tokens; the rest is padding."""
    assert 1 <= k <= vocabulary <= logits_CV.shape[1], (k, vocabulary, logits_CV.shape)

    def some(logits_CV: Tensor) -> tuple[Tensor, Tensor]:
        log_CX = scaled(logits_CV[:, :vocabulary], temperature).log_softmax(1)
        top_CK, ids_CK = log_CX.topk(k, dim=1)
        return ids_CK, _outcomes(log_CX, ids_CK, top_CK)

    parts = zip(*by_rows(some, logits_CV), strict=True)
    return TopTokens(*(torch.cat(each) for each in parts))


def compare_top(
    student_CV: Tensor, teacher: TopTokens, target_C: Tensor, logits: StudentLogits
) -> ComparedTokens:
    """Compare a student with what is kept of its teacher.

    Args:
        student_CV: logits.
        teacher: of the same rows, at the temperature of the divergence.
        target_C: token ids that the log-probs are of.
        logits: the divergence, and how the student's logits are read.
    """
    return compared(_Top(logits=logits), student_CV, target_C, *teacher)


@dataclass(frozen=True, kw_only=True)
class _Top:
    """Some of the teacher's tokens are known, and what all others have together."""

    logits: StudentLogits

    @property
    def temperature(self) -> float:
        return self.logits.config.temperature

    def compared(
        self, student_CV: Tensor, target_C: Tensor, ids_CK: Tensor, logp_CB: Tensor
    ) -> tuple[Tensor, ...]:
        logq_CX = self.logits.log_softmax(student_CV)
        logq_CB = _outcomes(logq_CX, ids_CK, logq_CX.gather(1, ids_CK))
        return self.logits.compared(
            student_CV,
            target_C,
            divergence_C=log_divergence(logp_CB, logq_CB, beta=self.logits.config.beta),
            logq_CX=logq_CX,
            teachers_top_C=ids_CK[:, 0],
        )

    def gradient(
        self, student_CV: Tensor, divergence_C: Tensor, ids_CK: Tensor, logp_CB: Tensor
    ) -> Tensor:
        """With z of a token in the bucket: dD / dz = (its share of the bucket) dD / dz_bucket."""
        logq_CX = self.logits.log_softmax(student_CV)
        logq_CB = _outcomes(logq_CX, ids_CK, logq_CX.gather(1, ids_CK))
        rest_C1 = logq_CB[:, -1:].clone()
        beta = self.logits.config.beta
        grad_CB = log_gradient(logp_CB.clone(), logq_CB, divergence_C, beta=beta)
        # Of an empty bucket there is no share: every token is kept and written below.
        grad_CX = logq_CX.sub_(rest_C1).clamp_max_(0.0).exp_().mul_(grad_CB[:, -1:])
        return grad_CX.scatter_(1, ids_CK, grad_CB[:, :-1])


def _outcomes(log_CX: Tensor, ids_CK: Tensor, top_CK: Tensor) -> Tensor:
    """Return the log-probs of the kept tokens and of the bucket, (C, B), at least ``LEAST``."""
    rest_C1 = log_CX.scatter(1, ids_CK, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([top_CK, rest_C1], 1).clamp_min_(LEAST)
