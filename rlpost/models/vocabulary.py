"""Comparisons of vocabularies: of two models, and of token ids with a model.

Owns the comparisons. Refuses to load models: tokenizers are enough.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

from rlpost.errors import UserError


def same_vocabulary(first: str, second: str) -> bool:
    """Whether the tokenizers at two model paths give every id the same token."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(first).get_vocab() == (
        AutoTokenizer.from_pretrained(second).get_vocab()
    )


def vocabulary_fingerprint(token_ids: Mapping[str, int]) -> str:
    """Return the digest of what a tokenizer's ``get_vocab`` returned, 32 hexadecimal digits."""
    text = json.dumps(sorted(token_ids.items()), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def require_same_vocabulary(path: str, policy_path: str, *, field: str) -> None:
    """Raises UserError: the model at ``path``, set in ``field``, has another vocabulary."""
    if not same_vocabulary(path, policy_path):
        raise UserError(
            f"{field}: {path!r} must have the tokenizer of the policy ({policy_path!r}), because "
            "it gets the same token ids; use a model of the same family"
        )


def require_in_vocabulary(token_ids: Sequence[int], *, size: int, field: str) -> None:
    """Raises UserError: a token id set in ``field`` is not below the vocabulary's ``size``."""
    unknown = [token for token in token_ids if not 0 <= token < size]
    if unknown:
        raise UserError(
            f"{field} must hold token ids from 0 to {size - 1}, the model's vocabulary, got "
            f"{unknown}"
        )
