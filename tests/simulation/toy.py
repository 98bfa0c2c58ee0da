"""A policy small enough to check by hand: a vector of logits, sampled token by token.

Owns the arithmetic of the toy: log-probs, sampling, the update. Everything is plain float64
in a fixed order, so equal inputs give bit-equal outputs wherever they are computed.
"""

import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from rlpost.training.packing.pack import Packed

VOCABULARY = 5
EOS = 0

Weights = tuple[float, ...]

FIRST: Weights = (-0.4, 0.3, 0.1, -0.2, 0.2)


@lru_cache(maxsize=512)
def logprob_table(weights: Weights) -> tuple[tuple[float, ...], ...]:
    """Log-probs of the next token, by the previous token."""
    rows = []
    for previous in range(VOCABULARY):
        logits = [
            weights[token] + 0.5 * weights[(token + previous + 1) % VOCABULARY]
            for token in range(VOCABULARY)
        ]
        log_total = math.log(sum(math.exp(logit) for logit in logits))
        rows.append(tuple(logit - log_total for logit in logits))
    return tuple(rows)


def sample(weights: Weights, previous: int, draw: float) -> tuple[int, float]:
    """Return a token and its log-prob; ``draw`` is uniform in [0, 1)."""
    row = logprob_table(weights)[previous % VOCABULARY]
    left = draw
    for token in range(VOCABULARY - 1):
        left -= math.exp(row[token])
        if left < 0:
            return token, row[token]
    return VOCABULARY - 1, row[-1]


def logprob(weights: Weights, previous: int, token: int) -> float:
    return logprob_table(weights)[previous % VOCABULARY][token]


def probe(weights: Weights, sequences: Iterable[Sequence[int]]) -> list[list[float]]:
    """Log-prob of every token after the first."""
    return [[logprob(weights, a, b % VOCABULARY) for a, b in pairwise(ids)] for ids in sequences]


def updated(weights: Weights, gradient: bytes, update_id: int) -> Weights:
    """One optimizer step."""
    key = f"{update_id}".encode()
    digest = hashlib.blake2b(gradient, digest_size=2 * VOCABULARY, key=key).digest()
    return tuple(
        w + (int.from_bytes(digest[2 * i : 2 * i + 2], "big") / 65535 - 0.5) * 0.4
        for i, w in enumerate(weights)
    )


# In this order, because simulated runs are compared with weights that were stored.
_OF_RL = ("rollout_logprobs_R", "weight_R", "advantages_R")


def gradient_of(packed: Packed) -> bytes:
    """A fingerprint of everything the trainer sees of an optimizer batch."""
    digest = hashlib.blake2b(digest_size=16)
    for rank_batches in packed.batches:
        for batch in rank_batches:
            digest.update(np.ascontiguousarray(batch.token_ids_T).tobytes())
            digest.update(np.ascontiguousarray(batch.target_R).tobytes())
            for name in _OF_RL if _OF_RL[-1] in batch.columns else sorted(batch.columns):
                digest.update(np.nan_to_num(batch.columns[name]).tobytes())
    return digest.digest()


def corrupted(weights: Weights) -> Weights:
    """What a flipped bit makes of weights."""
    return (weights[0] + 0.5, *weights[1:])


def child_draws(seed: int) -> random.Random:
    return random.Random(seed)
