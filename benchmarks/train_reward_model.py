"""Train a small reward model on the built-in arithmetic task, in plain torch.

    python benchmarks/train_reward_model.py OUTPUT_DIRECTORY [--steps 40] [--layers 10]

Each question "What is a * b?" is answered in several wordings, each rightly and wrongly; the
loss is Bradley-Terry, -log sigma(r_right - r_wrong), within a wording. Questions share their
prompt in the packed forward pass. Operand pairs are split as in the task, so the reported
accuracy is on products that were never trained on. Output: a directory for
``AutoModelForSequenceClassification`` with one label, with tokenizer.

Legend: Q questions, W wordings of a question, A answers of a wording (the first is right).
"""

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlpost.data.arithmetic import operand_pairs
from rlpost.data.rows import Split
from rlpost.models.embedded import NAME
from rlpost.models.locate import locate_model
from rlpost.training.critic import Critic, load_critic
from rlpost.training.deepspeed_weights import save_classifier
from rlpost.training.policy import PolicyInputs, packed_hidden
from rlpost.training.precision import has_native_bfloat16
from rlpost.training.scoring import scoring_batch

WORDINGS = (
    "{product}",
    "{a} * {b} = {product}",
    "{a} * {b} = {product}.",
    "The answer is {product}.",
    "{a} times {b} is {product}.",
    "{a} multiplied by {b} equals {product}.",
)
NUM_WORDINGS, NUM_WRONG = 2, 3  # of one question in one step


def wrong_products(a: int, b: int, rng: random.Random, *, count: int) -> list[int]:
    """Distinct numbers one might mistake for a * b: a neighbour's, a near or a random one."""
    found: set[int] = set()
    while len(found) < count:
        guess = rng.choice(
            (
                a * (b + rng.choice((-2, -1, 1, 2))),
                (a + rng.choice((-2, -1, 1, 2))) * b,
                a * b + rng.choice((-10, -5, -3, -2, -1, 1, 2, 3, 5, 10)),
                a + b,
                rng.randint(2, 144),
            )
        )
        if guess > 0 and guess != a * b:
            found.add(guess)
    return rng.sample(sorted(found), count)


class Questions:
    """Questions and answers of one side of the split, as token ids; endless epochs."""

    def __init__(self, tokenizer: Any, split: Split, *, seed: int) -> None:
        self._tokenizer = tokenizer
        self._operands = sorted({q for a, b in operand_pairs(split) for q in ((a, b), (b, a))})
        self._rng = random.Random(seed)
        self._left: list[tuple[int, int]] = []

    def draw(self, count: int) -> list[tuple[list[int], list[list[int]]]]:
        """``count`` blocks of a prompt and its W * A responses."""
        return [self._block() for _ in range(count)]

    def _block(self) -> tuple[list[int], list[list[int]]]:
        if not self._left:
            self._left = self._rng.sample(self._operands, len(self._operands))
        a, b = self._left.pop()
        prompt = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": f"What is {a} * {b}?"}],
            add_generation_prompt=True,
            tokenize=False,
        )
        responses = []
        for wording in self._rng.sample(WORDINGS, NUM_WORDINGS):
            for product in (a * b, *wrong_products(a, b, self._rng, count=NUM_WRONG)):
                responses.append(wording.format(a=a, b=b, product=product) + "<|im_end|>")
        return self._ids(prompt), [self._ids(response) for response in responses]

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]


def margins(model: Critic, blocks: list[tuple[list[int], list[list[int]]]]) -> Tensor:
    """r_right - r_wrong for every wrong answer; bfloat16 below the head where that is fast."""
    batch = scoring_batch(blocks)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_native_bfloat16()):
        hidden_TE = packed_hidden(model.model, PolicyInputs.of(batch, device=torch.device("cpu")))
    last = [end - 1 for block in batch.blocks for _, end in block.responses]
    rewards_NA = model.score(hidden_TE[last]).view(-1, 1 + NUM_WRONG)
    return rewards_NA[:, :1] - rewards_NA[:, 1:]


@torch.no_grad()
def accuracy(model: Critic, questions: Questions, *, count: int) -> float:
    """Share of wrong answers that score below their right one."""
    found = torch.cat([margins(model, questions.draw(8)) for _ in range(count // 8)])
    return float((found > 0).float().mean())


def train(
    output: Path,
    *,
    base: str = NAME,
    steps: int = 40,
    batch: int = 8,
    lr: float = 2e-4,
    layers: int = 10,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> float:
    """Train, save to ``output`` and return the held-out pairwise accuracy.

    Args:
        output: created; holds weights in float32 and the tokenizer.
        base: the causal LM to start from.
        steps: AdamW updates; the rate falls linearly to 0.
        batch: questions per update.
        lr: highest learning rate; the head's is ten times that.
        layers: how many of the last layers are trained; the embedding is not.
        seed: of the questions.
        report: where progress goes.
    """
    from transformers import AutoTokenizer

    path = locate_model(base)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = load_critic(path, dtype=torch.float32)
    groups = trained_groups(model, layers=layers, lr=lr)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 10) * (1 - step / steps)
    )
    questions = Questions(tokenizer, Split.TRAIN, seed=seed)
    start = time.monotonic()
    for step in range(1, steps + 1):
        loss = -logsigmoid(margins(model, questions.draw(batch))).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 10 == 0:
            report(f"step {step:4}  loss {loss:.3f}  {time.monotonic() - start:.0f} s")
    save_classifier(model, output, tokenizer_path=path, write=True)
    known = accuracy(model, Questions(tokenizer, Split.TRAIN, seed=1), count=64)
    report(f"pairwise accuracy on fresh answers to trained questions {known:.3f}")
    return accuracy(model, Questions(tokenizer, Split.HELDOUT, seed=1), count=64)


def trained_groups(model: Critic, *, layers: int, lr: float) -> list[dict[str, Any]]:
    """Freeze the embedding and all but the last ``layers`` layers; returns the rest."""
    model.requires_grad_(False)
    body = [*model.model.layers[-layers:], model.model.norm]
    groups = [
        {"params": [param for part in body for param in part.parameters()], "lr": lr},
        {"params": list(model.score.parameters()), "lr": 10 * lr},
    ]
    for group in groups:
        for param in group["params"]:
            param.requires_grad_(True)
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--base", default=NAME)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = vars(parser.parse_args())
    torch.set_num_threads(arguments.pop("threads"))
    found = train(**arguments, report=lambda line: print(line, flush=True))
    print(f"held-out pairwise accuracy {found:.3f}")


if __name__ == "__main__":
    main()
