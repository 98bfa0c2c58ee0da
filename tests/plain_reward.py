"""Reward models in plain transformers and torch, which rlpost must agree with.

It shares no code with rlpost: it writes the ChatML text of tests' tiny models by hand, pads a batch
on the right, reads transformers' own logits and has its own mean.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

END = "<|im_end|>"


def asked(question: str) -> str:
    return f"<|im_start|>user\n{question}{END}\n<|im_start|>assistant\n"


def pair_rows(count: int, *, start: int = 0) -> list[dict]:
    """Pairs of very different lengths, with margins."""
    return [
        {
            "prompt": f"What is {n} + {n % 3}?" + " Please." * (n * 5 % 4),
            "chosen": f"{n + n % 3}" + "!" * (n % 5),
            "rejected": f"Is it {n * n}?" + " No." * (n % 3),
            "margin": n % 4 / 4,
        }
        for n in range(start, start + count)
    ]


def step_rows(count: int, *, start: int = 0) -> list[dict]:
    """Solutions of one to four steps."""
    return [
        {
            "prompt": f"Add {n} and {n}.",
            "completions": [f"step {k} is {n * k}" + "." * (n % 3) for k in range(1 + n % 4)],
            "labels": [(n + k) % 3 != 0 for k in range(1 + n % 4)],
        }
        for n in range(start, start + count)
    ]


def padded(tokenizer, texts: list[str]) -> dict[str, Tensor]:
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    longest = max(map(len, rows))
    ids = [row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def pair_scores(model, tokenizer, rows: list[dict]) -> tuple[Tensor, Tensor]:
    """What transformers scores of chosen and rejected responses, with their end of turn."""
    texts = [asked(r["prompt"]) + r[side] + END for side in ("chosen", "rejected") for r in rows]
    scores = model(**padded(tokenizer, texts)).logits[:, 0]
    return scores[: len(rows)], scores[len(rows) :]


def pair_loss(model, tokenizer, rows: list[dict], *, centre: float, margins: bool) -> Tensor:
    """Bradley-Terry, a mean over pairs."""
    chosen, rejected = pair_scores(model, tokenizer, rows)
    margin = torch.tensor([row["margin"] if margins else 0.0 for row in rows])
    centred = centre * (chosen + rejected) ** 2
    return (-logsigmoid(chosen - rejected - margin) + centred).mean()


def step_logits(model, tokenizer, rows: list[dict]) -> tuple[Tensor, Tensor]:
    """The two logits at the last character of every step, and whether the step is right."""
    inputs = padded(
        tokenizer, [asked(r["prompt"]) + "\n".join(r["completions"]) + END for r in rows]
    )
    logits = model(**inputs).logits
    found, labels = [], []
    for number, row in enumerate(rows):
        for last, label in enumerate(row["labels"], start=1):
            text = asked(row["prompt"]) + "\n".join(row["completions"][:last])
            found.append(logits[number, len(tokenizer(text)["input_ids"]) - 1])
            labels.append(int(label))
    return torch.stack(found), torch.tensor(labels)


def step_loss(model, tokenizer, rows: list[dict]) -> Tensor:
    """Cross-entropy of the two labels, a mean over all steps."""
    return cross_entropy(*step_logits(model, tokenizer, rows))


def gradient_of(model, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
