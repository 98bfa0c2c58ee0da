"""Supervised fine-tuning in plain torch, which rlpost must agree with.

It shares no code with rlpost: it writes the ChatML text of tests' tiny models by hand, finds the
answers in it by character, pads a batch on the right, and has its own mean, clipping, AdamW and
learning rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

Messages = list[dict[str, str]]
IGNORED = -100
END = "<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the loop is told; ``lr`` at the peak of a cosine after a linear warm-up."""

    train_on: str = "assistant"  # last, all
    lr: float = 1e-3
    steps: int = 4
    warmup_steps: int = 1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0


@dataclass(kw_only=True)
class Curves:
    """Loss and gradient norm of each step, before its update, the first gradient and the result."""

    model: Any
    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    gradient: dict[str, Tensor] = field(default_factory=dict)


def written(messages: Messages) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of a conversation, and where answers lie in it, with their ends of turn."""
    text, answers = "", []
    for message in messages:
        text += f"<|im_start|>{message['role']}\n"
        start = len(text)
        text += message["content"] + END
        if message["role"] == "assistant":
            answers.append((start, len(text)))
        text += "\n"
    return text, answers


def labelled(tokenizer, messages: Messages, train_on: str) -> tuple[list[int], list[int]]:
    """Return token ids and labels of a conversation."""
    text, answers = written(messages)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    trained = {"assistant": answers, "last": answers[-1:], "all": [(0, len(text))]}[train_on]
    labels = [
        token if any(start <= first and last <= end for start, end in trained) else IGNORED
        for token, (first, last) in zip(
            encoded["input_ids"], encoded["offset_mapping"], strict=True
        )
    ]
    return encoded["input_ids"], labels


def mean_loss(model, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Return the mean over all labelled tokens of a padded batch."""
    longest = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    labels_BT = torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in rows])
    present_BT = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
    logits_BTV = model(input_ids=ids_BT, attention_mask=present_BT, use_cache=False).logits
    return cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED
    )


def learning_rate(step: int, settings: Settings) -> float:
    """Return the rate of a step, counted from 1; the step after the last would have none."""
    if step < settings.warmup_steps:
        return settings.lr * step / settings.warmup_steps
    start = max(settings.warmup_steps, 1)
    share = (step - start) / (settings.steps + 1 - start)
    return settings.lr * (1 + math.cos(math.pi * share)) / 2


class AdamW:
    """AdamW as its paper has it, arXiv 1711.05101, with the usual constants."""

    def __init__(self, model, settings: Settings) -> None:
        self._params, self._settings = list(model.parameters()), settings
        self._first = [torch.zeros_like(p) for p in self._params]
        self._second = [torch.zeros_like(p) for p in self._params]

    @torch.no_grad()
    def update(self, step: int, scale: float) -> None:
        """Apply the gradients, each multiplied by ``scale``."""
        lr = learning_rate(step, self._settings)
        for p, first, second in zip(self._params, self._first, self._second, strict=True):
            gradient = p.grad * scale
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            p.mul_(1 - lr * self._settings.weight_decay)
            corrected = (second / (1 - 0.999**step)).sqrt() + 1e-8
            p.sub_(lr * (first / (1 - 0.9**step)) / corrected)


def plain_curves(
    path: Path | str, batches: Sequence[Sequence[Messages]], settings: Settings
) -> Curves:
    """Train on one batch of conversations after the other."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train()
    tokenizer = AutoTokenizer.from_pretrained(path)
    optimizer, curves = AdamW(model, settings), Curves(model=model)
    for step, batch in enumerate(batches, start=1):
        model.zero_grad()
        loss = mean_loss(model, [labelled(tokenizer, row, settings.train_on) for row in batch])
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
        curves.loss.append(loss.item())
        curves.grad_norm.append(norm)
        if step == 1:
            curves.gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.update(step, min(1.0, settings.max_grad_norm / norm))
    return curves


def conversations(count: int) -> list[Messages]:
    """Conversations of very different lengths, some of several turns."""
    rows = []
    for number in range(count):
        messages = [{"role": "system", "content": "Be brief."}] if number % 3 == 0 else []
        for turn in range(1 + number % 3):
            question = f"What is {number} + {turn}?" + " Please." * (number * 5 % 7)
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": f"{number + turn}" + "!" * turn})
        rows.append(messages)
    return rows


def batches(steps: int, *, examples: int) -> list[list[Messages]]:
    """Return the conversations of each step."""
    rows = conversations(steps * examples)
    return [rows[start : start + examples] for start in range(0, len(rows), examples)]
