"""The identity of a tokenizer: all that decides which tokens a text or a conversation has.

Owns the hash. Refuses to own what an encoder adds to it. Invariant: two tokenizers with the same
identity give the same tokens, wherever their files lie.
"""

import hashlib
import json
from typing import Any


def tokenizer_identity(tokenizer: Any) -> str:
    """Return a short hash of vocabulary, rules, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    parts = [
        type(tokenizer).__name__,
        rules,
        tokenizer.chat_template,
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        [tokenizer.bos_token_id, tokenizer.eos_token_id],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def encoder_identity(tokenizer: Any, **options: Any) -> str:
    """Return a short hash of a tokenizer and the options of what encodes with it."""
    parts = {"tokenizer": tokenizer_identity(tokenizer), **options}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
