"""Preference learning in plain torch, which rlpost must agree with.

It shares no code with rlpost: each completion is a sequence of its own behind its prompt, written
in ChatML by hand; log-probs are sums over the completion and its end of turn; and every loss is
written down again from its paper, without a case for extremes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu
from transformers import AutoModelForCausalLM, AutoTokenizer

END = "<|im_end|>"
BETA, SMOOTHING, ALPHA, GAMMA = 0.1, 0.1, 1.0, 1.0
SIMPO_BETA = 2.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt with a better and a worse completion; one of them is judged for KTO."""

    prompt: str
    chosen: str
    rejected: str
    is_good: bool

    @property
    def judged(self) -> str:
        return self.chosen if self.is_good else self.rejected


def rows(count: int) -> list[Row]:
    """Rows of very different lengths, no two with one prompt."""
    return [
        Row(
            prompt=f"What is {n} + 3?" + " Please." * (n * 5 % 4),
            chosen=f"{n + 3}" + "!" * (n % 6),
            rejected="I do not know" + "." * (n * 3 % 7),
            is_good=n % 3 != 0,
        )
        for n in range(count)
    ]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model with its tokenizer, which says how likely a completion is."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, path: Path | str) -> "Model":
        return cls(
            model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train(),
            tokenizer=AutoTokenizer.from_pretrained(path),
        )

    def logprobs(self, prompt: str, completion: str) -> Tensor:
        """Return the log-prob of each token of a completion, by itself behind its prompt."""
        given = self._ids(f"<|im_start|>user\n{prompt}{END}\n<|im_start|>assistant\n")
        learned = self._ids(completion + END)
        ids_1T = torch.tensor([given + learned])
        logprobs_TV = self.model(input_ids=ids_1T, use_cache=False).logits[0].log_softmax(-1)
        places = torch.arange(len(given) - 1, len(given) + len(learned) - 1)
        return logprobs_TV[places, torch.tensor(learned)]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _odds(mean: Tensor) -> Tensor:
    return mean - torch.log1p(-mean.exp())


# (policy chosen, policy rejected, reference chosen, reference rejected), each by token
PAIR_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "dpo": lambda w, v, rw, rv: -logsigmoid(BETA * _d(w, v, rw, rv)),
    "rpo": lambda w, v, rw, rv: -logsigmoid(BETA * _d(w, v, rw, rv)),
    "cdpo": lambda w, v, rw, rv: (
        -(1 - SMOOTHING) * logsigmoid(BETA * _d(w, v, rw, rv))
        - SMOOTHING * logsigmoid(-BETA * _d(w, v, rw, rv))
    ),
    "robust": lambda w, v, rw, rv: (
        (
            -(1 - SMOOTHING) * logsigmoid(BETA * _d(w, v, rw, rv))
            + SMOOTHING * logsigmoid(-BETA * _d(w, v, rw, rv))
        )
        / (1 - 2 * SMOOTHING)
    ),
    "ipo": lambda w, v, rw, rv: (w.mean() - rw.mean() - v.mean() + rv.mean() - 1 / (2 * BETA)) ** 2,
    "hinge": lambda w, v, rw, rv: relu(1 - BETA * _d(w, v, rw, rv)),
    "cpo": lambda w, v, rw, rv: -logsigmoid(BETA * (w.sum() - v.sum())),
    "simpo": lambda w, v, rw, rv: -logsigmoid(SIMPO_BETA * (w.mean() - v.mean()) - GAMMA),
    "orpo": lambda w, v, rw, rv: -BETA * logsigmoid(_odds(w.mean()) - _odds(v.mean())),
}
NLL_WEIGHT = {"rpo": ALPHA, "cpo": ALPHA, "orpo": 1.0}
LOSSES = (*PAIR_LOSSES, "kto")


def _d(w: Tensor, v: Tensor, rw: Tensor, rv: Tensor) -> Tensor:
    return w.sum() - rw.sum() - v.sum() + rv.sum()


def batch_loss(name: str, policy: Model, reference: Model, batch: Sequence[Row]) -> Tensor:
    """Return the loss of an optimizer batch, with its gradient."""
    if name == "kto":
        return _kto(policy, reference, batch)
    values, nll = [], []
    for row in batch:
        with torch.no_grad():
            theirs = [reference.logprobs(row.prompt, each) for each in (row.chosen, row.rejected)]
        ours = [policy.logprobs(row.prompt, each) for each in (row.chosen, row.rejected)]
        values.append(PAIR_LOSSES[name](*ours, *theirs))
        nll.append(-ours[0])
    return torch.stack(values).mean() + NLL_WEIGHT.get(name, 0.0) * torch.cat(nll).mean()


def _kto(policy: Model, reference: Model, batch: Sequence[Row]) -> Tensor:
    with torch.no_grad():
        wrong = [
            policy.logprobs(row.prompt, other.judged).sum()
            - reference.logprobs(row.prompt, other.judged).sum()
            for row, other in zip(batch, [*batch[1:], batch[0]], strict=True)
        ]
        z = torch.stack(wrong).mean().clamp(min=0)
        theirs = [reference.logprobs(row.prompt, row.judged).sum() for row in batch]
    values = []
    for row, there in zip(batch, theirs, strict=True):
        ahead = BETA * (policy.logprobs(row.prompt, row.judged).sum() - there - z)
        values.append(1 - torch.sigmoid(ahead if row.is_good else -ahead))
    return torch.stack(values).mean()


def plain_gradient(
    name: str, policy: Model, reference: Model, batch: Sequence[Row]
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of a batch and its gradient by the parameters' names."""
    policy.model.zero_grad()
    loss = batch_loss(name, policy, reference, batch)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in policy.model.named_parameters()}
