"""Denominators: the one reducer.

Owns the weight of a token in the loss of one optimizer batch. Refuses to own losses, packing
and which tokens there are: only those that were sampled have a place in a batch. Invariant:
weights are computed once over the *whole* optimizer batch, before it is split, so that

    loss = sum over ranks and micro-batches of sum(weight_R * values_R)

is the same number and the same gradient for every split. (An engine that averages over
ranks must be given this sum times the number of ranks.) numpy only: packing runs where
torch is not loaded.

Legend: S sequences (episodes) of the optimizer batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from rlpost.bounds import number, option
from rlpost.errors import UserError


class Aggregation(Enum):
    """How tokens are averaged.

    ``token_mean``: every token counts the same (DAPO). ``sequence_mean``: every response counts the
    same and divides its weight among its tokens (GRPO's paper). ``prompt_mean``: every prompt
    counts the same and divides its weight among all tokens of its responses (ScaleRL, arXiv
    2510.13786). ``constant``: a token counts 1 / (S * constant_tokens), whatever the lengths
    (Dr.GRPO).
    """

    token_mean = "token_mean"
    sequence_mean = "sequence_mean"
    prompt_mean = "prompt_mean"
    constant = "constant"


@dataclass(kw_only=True)
class ReductionConfig:
    """Denominators of the loss and whether truncated responses are trained on."""

    aggregation: Aggregation = option(
        Aggregation.token_mean, help="how the losses of tokens are averaged"
    )
    constant_tokens: int | None = number(
        None,
        at_least=1,
        at_most=10**7,
        hint="Dr.GRPO uses the response limit",
        help="the divisor, only with aggregation=constant; usual: the response limit",
    )
    mask_truncated: bool = option(False, help="do not train on responses that hit the length limit")

    def check(self, path: str) -> None:
        """Raises UserError: ``constant_tokens`` is missing or has no effect."""
        constant = self.aggregation is Aggregation.constant
        if constant and self.constant_tokens is None:
            raise UserError(
                f"{path}.constant_tokens must be given with {path}.aggregation=constant; Dr.GRPO "
                "uses the response limit"
            )
        if not constant and self.constant_tokens is not None:
            raise UserError(
                f"{path}.constant_tokens={self.constant_tokens} has no effect with "
                f"{path}.aggregation={self.aggregation.value}; set it to null or use "
                "aggregation=constant"
            )


class ExampleAggregation(Enum):
    """How the trained tokens of examples are averaged.

    ``token_mean``: every trained token of the optimizer batch counts the same. ``example_mean``:
    every example counts the same and divides its weight among its trained tokens.
    """

    token_mean = "token_mean"
    example_mean = "example_mean"


def example_weights(
    num_trained_S: Sequence[int], aggregation: ExampleAggregation
) -> list[np.ndarray]:
    """Weigh the trained tokens of an optimizer batch of examples.

    Args:
        num_trained_S: trained tokens of each example, at least one.
        aggregation: see ExampleAggregation.

    Returns:
        One float64 array per example, with an entry for each trained token; they sum to 1.
    """
    per_token = aggregation is ExampleAggregation.token_mean
    config = ReductionConfig(
        aggregation=Aggregation.token_mean if per_token else Aggregation.sequence_mean
    )
    weights_S = loss_weights(num_trained_S, config=config)
    return [np.full(num, weight) for num, weight in zip(num_trained_S, weights_S, strict=True)]


def loss_weights(
    lengths_S: Sequence[int],
    *,
    config: ReductionConfig,
    kept_S: Sequence[bool] | None = None,
    prompt_S: Sequence[int] | None = None,
) -> np.ndarray:
    """Weigh the tokens of an optimizer batch; those of one sequence weigh the same.

    Args:
        lengths_S: sampled tokens of each sequence.
        config: see ReductionConfig.
        kept_S: sequences to train on; the others get weight 0 but stay in the
            denominators, so masking does not scale up what remains. Default: all.
        prompt_S: which prompt each sequence answers; ``prompt_mean`` needs it.

    Returns:
        The weight of a token of each sequence, float64. But for ``constant`` the weights of all
        tokens sum to 1 when everything is kept; without a token they are all 0.
    """
    weight_S = _weights(np.asarray(lengths_S, dtype=np.float64), config, prompt_S)
    return weight_S if kept_S is None else np.where(np.asarray(kept_S, dtype=bool), weight_S, 0.0)


def _weights(
    lengths_S: np.ndarray, config: ReductionConfig, prompt_S: Sequence[int] | None
) -> np.ndarray:
    num_tokens, num_sequences = lengths_S.sum(), np.count_nonzero(lengths_S)
    if num_tokens == 0:
        return np.zeros_like(lengths_S)
    match config.aggregation:
        case Aggregation.token_mean:
            return np.full_like(lengths_S, 1 / num_tokens)
        case Aggregation.sequence_mean:
            weight_S: np.ndarray = 1 / (num_sequences * np.maximum(lengths_S, 1))
            return weight_S
        case Aggregation.prompt_mean:
            assert prompt_S is not None, "prompt_mean needs the sequences' prompts"
            prompts, index_S = np.unique(np.asarray(prompt_S), return_inverse=True)
            tokens = np.bincount(index_S, weights=lengths_S, minlength=len(prompts))
            shared_S: np.ndarray = 1 / (np.count_nonzero(tokens) * np.maximum(tokens, 1)[index_S])
            return shared_S
        case Aggregation.constant:
            assert config.constant_tokens is not None, "ReductionConfig.check was not called"
            return np.full_like(lengths_S, 1 / (num_sequences * config.constant_tokens))
