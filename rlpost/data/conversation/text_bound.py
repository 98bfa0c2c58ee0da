"""Refuses a text that cannot fit before it is tokenized, which takes seconds for megabytes.

Owns the bound: a text has at least as many tokens as its bytes that the vocabulary knows, divided
by the bytes of the longest token. Refuses to own the exact rule (corpus.py). Invariant: what would
fit is never refused; with a tokenizer that may drop characters in another way, or write many of
them as one unknown token, nothing is.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlpost.data.example import RowTooLong

# Shorter texts than so many characters for each allowed token are not looked at: tokenizing them
# costs little.
_LOOKED_AT = 16
# At most so many bytes become one when characters are composed (NFC); the Unicode standard gives 3.
_COMPOSED = 4
_NEVER_IN_UTF8 = frozenset([0xC0, 0xC1, *range(0xF5, 0x100)])
_KEEPING_NORMALIZERS = ("NFC", "Prepend", "Replace")
_KEEPING_SPLITS = ("ByteLevel", "Digits", "Metaspace", "Split")


@dataclass(frozen=True, kw_only=True)
class TextBound:
    """The bound for texts of at most ``max_tokens`` tokens; None: of any length."""

    tokenizer: Any
    max_tokens: int | None

    def may_exceed(self, parts: Iterable[str]) -> bool:
        """Whether ``require`` could refuse a text that these are written into; cheap."""
        if self.max_tokens is None:
            return False
        return sum(map(len, parts)) > _LOOKED_AT * self.max_tokens and self._rule is not None

    def require(self, text: str, *, address: str) -> None:
        """Raises RowTooLong: ``text`` has too many tokens."""
        if self.max_tokens is None or not self.may_exceed([text]):
            return
        assert self._rule is not None
        num_tokens = self._rule.tokens_at_least(text)
        if num_tokens > self.max_tokens:
            raise RowTooLong(
                f"{address}: the row has {len(text):,} characters, which are at least "
                f"{num_tokens:,} tokens, at most {self.max_tokens} fit; shorten it, or set "
                "data.on_long=skip or truncate"
            )

    @cached_property
    def _rule(self) -> "BytesPerToken | None":
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return None if backend is None else bytes_per_token(json.loads(backend.to_str()))


@dataclass(frozen=True, kw_only=True)
class BytesPerToken:
    """How few tokens a text can have. Example: ``BytesPerToken(most=16, dropped=b"\\xf1")``."""

    most: int  # bytes of a text that become one token
    dropped: bytes  # those that the vocabulary lacks, which vanish

    def tokens_at_least(self, text: str) -> int:
        """Return a number that the tokens of ``text`` are never below."""
        kept = text.encode(errors="ignore").translate(None, self.dropped)
        return -(-len(kept) // self.most)


def bytes_per_token(rules: dict[str, Any]) -> BytesPerToken | None:
    """Return the bound of a tokenizer; None: there is none.

    Args:
        rules: of the tokenizer, as in tokenizer.json.
    """
    model, added = rules["model"], rules["added_tokens"]
    normalizers = _flat(rules["normalizer"], "normalizers")
    splits = _flat(rules["pre_tokenizer"], "pretokenizers")
    byte_level = any(each["type"] == "ByteLevel" for each in splits)
    composes = any(each["type"] == "NFC" for each in normalizers)
    keeps = (
        model["type"] == "BPE"
        and all(map(_keeps_characters, normalizers))
        and all(
            each["type"] in _KEEPING_SPLITS and each.get("behavior") != "Removed" for each in splits
        )
        and not any(each["lstrip"] or each["rstrip"] for each in added)
        and (byte_level or _falls_back(model))
    )
    dropped = _unknown_bytes(model["vocab"]) if keeps and byte_level else set()
    if not keeps or (composes and dropped - _NEVER_IN_UTF8):  # a composed character may vanish
        return None
    # Each character of a byte-level token stands for a byte; an added token stands for itself.
    sizes = [len(name) if byte_level else len(name.encode()) for name in model["vocab"]]
    sizes += [len(each["content"].encode()) for each in added]
    return BytesPerToken(
        most=max(sizes) * (_COMPOSED if composes else 1), dropped=bytes(sorted(dropped))
    )


def _flat(rule: dict[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    if rule is None:
        return []
    if rule["type"] == "Sequence":
        return [each for part in rule[parts] for each in _flat(part, parts)]
    return [rule]


def _keeps_characters(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] != "Replace":
        return normalizer["type"] in _KEEPING_NORMALIZERS
    pattern = normalizer["pattern"].get("String")
    return pattern is not None and len(normalizer["content"].encode()) >= len(pattern.encode())


def _unknown_bytes(vocab: dict[str, int]) -> set[int]:
    """Return the bytes that have no token in a byte-level vocabulary."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {byte for byte, name in bytes_to_unicode().items() if name not in vocab}


def _falls_back(model: dict[str, Any]) -> bool:
    """Whether unknown characters become tokens of single bytes."""
    return bool(model.get("byte_fallback")) and all(
        f"<0x{byte:02X}>" in model["vocab"] for byte in range(256)
    )
