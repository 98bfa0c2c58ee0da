"""How much work a model has with tokens: what micro-batches and ranks are balanced by.

Owns the count of useful operations of a forward pass, counted as in the appendix of PaLM (arXiv
2204.02311): two for each weight that a token is multiplied with. Here the head is applied to
scored tokens alone, and attention is counted pair by pair, causal, with shared prompts once.
Refuses to own times, peaks (flops.py) and what does not grow with the tokens. Imports no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlpost.training.packing.batch import Block, MicroBatch

if TYPE_CHECKING:  # it loads torch
    from rlpost.models.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class ForwardWork:
    """Example: ``ForwardWork(body=106_000_000, head=28_000_000, attention=30 * 576)``."""

    body: int  # weights that every token is multiplied with
    head: int  # weights that every scored token is multiplied with
    attention: int  # layers * heads * head_dim

    @classmethod
    def of(cls, config: Any, shapes: Sequence[tuple[str, Any, tuple[int, ...]]]) -> "ForwardWork":
        """Count a causal language model by its text config and parameters (name, dtype, shape)."""
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        vocabulary = config.vocab_size * config.hidden_size
        matrices = sum(math.prod(shape) for _, _, shape in shapes if len(shape) > 1)
        tied = getattr(config, "tie_word_embeddings", False)
        return cls(
            body=matrices - vocabulary * (1 if tied else 2),
            head=vocabulary,
            attention=config.num_hidden_layers * heads * head_dim,
        )

    @classmethod
    def of_shape(cls, shape: "ModelShape") -> "ForwardWork":
        """Count a causal language model of this shape, with the experts that one token meets."""
        from rlpost.roofline.work import attention_flops, multiplied

        vocabulary = shape.vocabulary * shape.width
        return cls(
            body=max(0, multiplied(shape) - vocabulary),  # a classifier's file has no head
            head=vocabulary,
            attention=attention_flops(shape) // 4,
        )

    @classmethod
    def of_model(cls, path: str) -> "ForwardWork":
        """Count the model in a directory, by its config and the headers of its weights."""
        from rlpost.models.shape import model_shape

        return cls.of_shape(model_shape(path))

    def flops(self, *, tokens: int, scored: int, pairs: int) -> int:
        """Return the operations of ``tokens``, some of them scored, that see ``pairs`` others."""
        # Of a pair: the product of query and key, and the weighting of the value.
        return 2 * self.body * tokens + 2 * self.head * scored + 4 * self.attention * pairs

    def of_batch(self, batch: MicroBatch) -> int:
        """Return the operations of a micro-batch; a dummy has none that are useful."""
        if batch.is_dummy:
            return 0
        pairs = sum(attended_pairs(block) for block in batch.blocks)
        return self.flops(tokens=batch.num_tokens, scored=len(batch.token_R), pairs=pairs)


BY_TOKENS = ForwardWork(body=1, head=0, attention=0)  # every token is the same work


def attended_pairs(block: Block) -> int:
    """Pairs of a token and one that it attends to, itself included."""
    prompt = block.prompt[1] - block.prompt[0]
    return triangle(prompt) + sum(
        pairs_behind(prompt, end - start) for start, end in block.responses
    )


def pairs_behind(prompt: int, length: int) -> int:
    """Pairs of the ``length`` tokens of a response that sees a prompt and itself."""
    return prompt * length + triangle(length)


def triangle(length: int) -> int:
    """Pairs of a sequence with itself, causal."""
    return length * (length + 1) // 2
