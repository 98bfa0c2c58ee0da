"""Distillation in plain torch, which rlpost must agree with.

It shares no code with rlpost: conversations, padding, AdamW and the learning rate are those of
plain_sft.py, and the divergence is a sum over probabilities in float64.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from plain_sft import IGNORED, AdamW, Curves, Messages, Settings, labelled
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

Rows = Sequence[tuple[list[int], list[int]]]  # token ids and labels


def divergence(student_NV: Tensor, teacher_NV: Tensor, *, beta: float, temperature: float = 1.0):
    """Return the generalised Jensen-Shannon divergence of each row of logits, (N,)."""
    q, p = ((each.double() / temperature).softmax(-1) for each in (student_NV, teacher_NV))

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * (a / b).log()).sum(-1)

    if beta in (0, 1):
        return kl(q, p) if beta else kl(p, q)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def top_divergence(
    student_NV: Tensor, teacher_NV: Tensor, k: int, *, beta: float, temperature: float = 1.0
):
    """Return the divergence over the teacher's ``k`` most likely tokens and all others, (N,)."""
    q, p = ((each.double() / temperature).softmax(-1) for each in (student_NV, teacher_NV))
    kept = p.argsort(-1, descending=True)[:, :k]
    if k < p.shape[1]:
        q, p = (torch.cat([each.gather(1, kept), 1 - each.gather(1, kept).sum(1, True)], 1)
                for each in (q, p))  # fmt: skip
    return divergence(q.log(), p.log(), beta=beta)


def mean_divergence(
    student: Any,
    teacher: Any,
    rows: Rows,
    *,
    beta: float,
    temperature: float,
    top_k: int | None = None,
):
    """Return the mean over all labelled tokens, of the distributions over the tokens that exist."""
    existing = 259  # tokens of the tiny models' tokenizer
    total: Any = 0
    for ids, labels in rows:
        ids_1T = torch.tensor([ids])
        compared = torch.tensor(labels[1:]) != IGNORED
        student_NV = student(input_ids=ids_1T, use_cache=False).logits[0, :-1][compared]
        with torch.no_grad():
            teacher_NV = teacher(input_ids=ids_1T, use_cache=False).logits[0, :-1][compared]
        total += top_divergence(
            student_NV[:, :existing],
            teacher_NV[:, :existing],
            top_k or existing,
            beta=beta,
            temperature=temperature,
        ).sum()
    return total / sum(label != IGNORED for _, labels in rows for label in labels[1:])


def plain_curves(
    path: Path | str,
    teacher: Path | str,
    batches: Sequence[Sequence[Messages]],
    settings: Settings,
    *,
    beta: float,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Curves:
    """Train the student at ``path`` on one batch of conversations after the other."""
    model, frozen = (
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32) for each in (path, teacher)
    )
    tokenizer = AutoTokenizer.from_pretrained(path)
    optimizer, curves = AdamW(model, settings), Curves(model=model)
    for step, batch in enumerate(batches, start=1):
        model.zero_grad()
        rows = [labelled(tokenizer, row, settings.train_on) for row in batch]
        loss = mean_divergence(model, frozen, rows, beta=beta, temperature=temperature, top_k=top_k)
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
        curves.loss.append(loss.item())
        curves.grad_norm.append(norm)
        if step == 1:
            curves.gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.update(step, min(1.0, settings.max_grad_norm / norm))
    return curves
