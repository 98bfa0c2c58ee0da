"""What token ids mean to a model, and whether two models mean the same by them.

Owns these comparisons. Refuses to load models: tokenizers are enough.
"""

from collections.abc import Sequence

from rlpost.errors import UserError


def same_vocabulary(first: str, second: str) -> bool:
    """Whether the tokenizers at two model paths give every id the same token."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(first).get_vocab() == (
        AutoTokenizer.from_pretrained(second).get_vocab()
    )


def require_same_vocabulary(path: str, policy_path: str, *, field: str) -> None:
    """Raises UserError: the model at ``path`` (configured in ``field``) reads other tokens."""
    if not same_vocabulary(path, policy_path):
        raise UserError(
            f"{field}: {path!r} must have the tokenizer of the policy ({policy_path!r}), whose "
            "token ids it is given; use a model of the same family"
        )


def require_in_vocabulary(token_ids: Sequence[int], *, size: int, field: str) -> None:
    """Raises UserError: a token id configured in ``field`` is none of the model's ``size``."""
    unknown = [token for token in token_ids if not 0 <= token < size]
    if unknown:
        raise UserError(
            f"{field} must hold token ids from 0 to {size - 1}, the model's vocabulary, got "
            f"{unknown}"
        )
