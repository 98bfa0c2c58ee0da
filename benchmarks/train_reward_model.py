"""Train a small reward model on the built-in arithmetic task, in plain torch.

    python benchmarks/train_reward_model.py OUTPUT_DIRECTORY [--steps 40] [--layers 10]

Each question "What is a * b?" is answered by the base model itself, several times: the reward
model sees what the policy writes at the start and, with half of the answers begun for it, what
it will write once it has learned how to begin. Right is an answer whose last number is the
product (verifier ``numeric``; ``math`` would also take "To find 7 * 8, we" for 56). A few
templated answers, one right and the others wrong, make sure that there is always a pair. The
loss is Bradley-Terry, -log sigma(r_right - r_wrong), over all pairs of a question: once at the
answers' last tokens, where a reward is read, and once at a random token, so that a critic
that starts from the model can value what is unfinished. Answers share their prompt in the
packed forward pass. Operand pairs are split as in the task, so the reported accuracy is on
products that were never trained on. Output: a directory for
``AutoModelForSequenceClassification`` with one label, with tokenizer.
"""

import argparse
import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlpost.data.rows import Split
from rlpost.data.sources.arithmetic import operand_pairs
from rlpost.models.embedded import NAME
from rlpost.models.locate import locate_model
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.packed_model import ModelInputs, PackedModel, packed_hidden
from rlpost.training.packing.pack import one_batch
from rlpost.training.packing.units import Unit
from rlpost.training.precision import has_native_bfloat16
from rlpost.training.zero.deepspeed_weights import save_model
from rlpost.verifiers.base import Sample
from rlpost.verifiers.kinds.numeric import NumericConfig, numeric

WORDINGS = (
    "{product}",
    "{a} * {b} = {product}",
    "{a} * {b} = {product}.",
    "The answer is {product}.",
    "{a} times {b} is {product}.",
    "{a} multiplied by {b} equals {product}.",
)
OPENINGS = ("", "{a} * {b} =")  # of own answers: none, or the beginning of an answer with a reward
NUM_OWN, NUM_WRONG = 8, 3  # per question and step: own answers, and wrong templated answers
MAX_TOKENS = 16  # of an own answer, as in configs/task/arithmetic.yaml
SAMPLING_BATCH = 256  # answers


@dataclass(frozen=True)
class Answer:
    """A response's token ids, and whether it is right."""

    ids: list[int]
    right: bool


Block = tuple[list[int], list[Answer]]  # a prompt and its answers


@dataclass(frozen=True)
class Question:
    """The operands, the prompt's token ids, and what the base model answered."""

    a: int
    b: int
    prompt: list[int]
    own: list[Answer]


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


def questions_of(tokenizer: Any, split: Split) -> list[Question]:
    """Both orders of every operand pair, not answered yet."""
    found = []
    pairs = operand_pairs(split)
    for a, b in sorted({*pairs, *((b, a) for a, b in pairs)}):
        messages = [{"role": "user", "content": f"What is {a} * {b}?"}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        found.append(Question(a, b, prompt=_ids(tokenizer, text), own=[]))
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def answer(questions: Sequence[Question], *, path: str, tokenizer: Any, count: int) -> None:
    """Give every question ``count`` answers of the model at ``path``, judged by the verifier."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    judge = numeric(NumericConfig())
    each = count // len(OPENINGS)
    size = max(1, SAMPLING_BATCH // each)
    asked = [
        (question, _ids(tokenizer, opening.format(a=question.a, b=question.b)))
        for opening in OPENINGS
        for question in questions
    ]
    for lengths in {(len(question.prompt), len(start)) for question, start in asked}:
        alike = [(q, start) for q, start in asked if (len(q.prompt), len(start)) == lengths]
        for part in (alike[first : first + size] for first in range(0, len(alike), size)):
            sampled = _sample(
                model,
                [question.prompt + start for question, start in part],
                count=each,
                max_tokens=MAX_TOKENS - lengths[1],
                end=tokenizer.eos_token_id,
            )
            for index, continuation in enumerate(sampled):
                question, start = part[index // each]
                text = tokenizer.decode(start + continuation, skip_special_tokens=True)
                product = {"answer": question.a * question.b}
                right = judge(Sample(prompt="", text=text, columns=product)) == 1.0
                question.own.append(Answer(start + continuation, right=right))


@torch.no_grad()
def _sample(
    model: Any, prompts: list[list[int]], *, count: int, max_tokens: int, end: int
) -> list[list[int]]:
    """Sample ``count`` responses to each of equally long prompts, at temperature 1."""
    ids_QT = torch.tensor(prompts)
    cache = model(ids_QT[:, :-1], use_cache=True).past_key_values
    cache.batch_repeat_interleave(count)  # the prompt is processed once for all answers
    ids_AT = ids_QT.repeat_interleave(count, dim=0)
    sampled_AT = model.generate(
        ids_AT,
        attention_mask=torch.ones_like(ids_AT),
        past_key_values=cache,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_tokens,
        eos_token_id=end,
        pad_token_id=end,
    )
    responses = sampled_AT[:, ids_QT.shape[1] :].tolist()
    return [ids[: ids.index(end) + 1] if end in ids else ids for ids in responses]


class Blocks:
    """Questions with some of their answers, as token ids; endless epochs."""

    def __init__(self, tokenizer: Any, questions: Sequence[Question], *, seed: int) -> None:
        self._tokenizer = tokenizer
        self._questions = questions
        self._rng = random.Random(seed)
        self._left: list[Question] = []

    def draw(self, count: int) -> list[Block]:
        """``count`` prompts with answers: own ones, half of them right if enough are; templated."""
        return [self._block() for _ in range(count)]

    def _block(self) -> Block:
        if not self._left:
            self._left = self._rng.sample(self._questions, len(self._questions))
        question = self._left.pop()
        a, b = question.a, question.b
        right = [answer for answer in question.own if answer.right]
        wrong = [answer for answer in question.own if not answer.right]
        answers = self._rng.sample(right, min(NUM_OWN // 2, len(right)))
        answers += self._rng.sample(wrong, min(NUM_OWN - len(answers), len(wrong)))
        wording = self._rng.choice(WORDINGS) + "<|im_end|>"
        for product in (a * b, *wrong_products(a, b, self._rng, count=NUM_WRONG)):
            ids = _ids(self._tokenizer, wording.format(a=a, b=b, product=product))
            answers.append(Answer(ids, right=product == a * b))
        return question.prompt, answers


def read(model: PackedModel, blocks: Sequence[Block]) -> list[list[Tensor]]:
    """Return the score after every token of every answer, by block and answer.

    In bfloat16 below the head where that is fast.
    """
    numbers = itertools.count()
    batch = one_batch(
        [
            Unit.sharing(prompt, {next(numbers): a.ids for a in answers})
            for prompt, answers in blocks
        ]
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_native_bfloat16()):
        hidden_TE = packed_hidden(model.model, ModelInputs.of(batch, device=torch.device("cpu")))
    scores_T = model.score(hidden_TE)
    return [[scores_T[first:end] for first, end in b.responses] for b in batch.blocks]


def margins(scores: Sequence[Tensor], answers: Sequence[Answer]) -> Tensor:
    """r_right - r_wrong of every pair of one question's answers."""
    scores_A = torch.stack(list(scores))
    right_A = torch.tensor([answer.right for answer in answers])
    return (scores_A[right_A][:, None] - scores_A[~right_A]).flatten()


def pairwise_loss(model: PackedModel, blocks: Sequence[Block], rng: random.Random) -> Tensor:
    """Bradley-Terry, the mean over questions; at the last tokens and at random ones."""
    losses = []
    for (_, answers), scores in zip(blocks, read(model, blocks), strict=True):
        ends, inside = [s[-1] for s in scores], [s[rng.randrange(len(s))] for s in scores]
        losses += [-logsigmoid(margins(found, answers)).mean() for found in (ends, inside)]
    return torch.stack(losses).mean()


@torch.no_grad()
def accuracy(model: PackedModel, blocks: Sequence[Block]) -> float:
    """Share of pairs whose right answer scores higher, at the last token."""
    found = []
    for part in (blocks[first : first + 8] for first in range(0, len(blocks), 8)):
        for (_, answers), scores in zip(part, read(model, part), strict=True):
            found.append(margins([s[-1] for s in scores], answers))
    return float((torch.cat(found) > 0).float().mean())


def train(
    output: Path,
    *,
    base: str = NAME,
    steps: int = 40,
    batch: int = 8,
    lr: float = 2e-4,
    layers: int = 10,
    samples: int = 16,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> float:
    """Train, save to ``output`` and return the held-out pairwise accuracy.

    Args:
        output: created; holds weights in float32 and the tokenizer.
        base: the causal LM to start from and to sample answers of.
        steps: AdamW updates; the rate falls linearly to 0.
        batch: questions per update.
        lr: highest learning rate; the head's is ten times that.
        layers: how many of the last layers are trained; the embedding is not.
        samples: own answers of each question; a step takes ``NUM_OWN`` of them.
        seed: of the answers and their order.
        report: where progress goes.
    """
    from transformers import AutoTokenizer

    path = locate_model(base)
    tokenizer = AutoTokenizer.from_pretrained(path)
    torch.manual_seed(seed)
    start = time.monotonic()
    questions = questions_of(tokenizer, Split.TRAIN)
    answer(questions, path=path, tokenizer=tokenizer, count=samples)
    held_out = questions_of(tokenizer, Split.HELDOUT)
    answer(held_out, path=path, tokenizer=tokenizer, count=NUM_OWN)
    answers = [answer.right for question in questions for answer in question.own]
    right = sum(answers) / len(answers)
    report(f"{len(answers)} answers, {right:.2f} right  {time.monotonic() - start:.0f} s")

    start_model = TrainedModel.critic(path, policy_path=path)
    model = start_model.load(dtype=torch.float32)
    groups = trained_groups(model, layers=layers, lr=lr)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 10) * (1 - step / steps)
    )
    blocks, rng = Blocks(tokenizer, questions, seed=seed), random.Random(seed)
    for step in range(1, steps + 1):
        loss = pairwise_loss(model, blocks.draw(batch), rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 10 == 0:
            report(f"step {step:4}  loss {loss:.3f}  {time.monotonic() - start:.0f} s")
    save_model(model, start_model, output, dtype=torch.float32, write=True)
    known = accuracy(model, Blocks(tokenizer, questions, seed=1).draw(len(held_out)))
    report(f"pairwise accuracy on trained questions {known:.3f}")
    return accuracy(model, Blocks(tokenizer, held_out, seed=1).draw(len(held_out)))


def trained_groups(model: PackedModel, *, layers: int, lr: float) -> list[dict[str, Any]]:
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
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = vars(parser.parse_args())
    torch.set_num_threads(arguments.pop("threads"))
    found = train(**arguments, report=lambda line: print(line, flush=True))
    print(f"held-out pairwise accuracy {found:.3f}")


if __name__ == "__main__":
    main()
