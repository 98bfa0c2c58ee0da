"""Which rows a set of verifiers can judge.

Owns what is asked of a row when it is loaded. Refuses to own the loading (data/dataset.py) and the
trial of golds (golds.py).
"""

from collections.abc import Mapping
from typing import Any

from rlpost.verifiers.base import VerifierConfig


def required_columns(verifiers: Mapping[str, VerifierConfig]) -> dict[str, str]:
    """Return the columns without which a verifier could only fail -> which verifier."""
    return {
        column: str(cfg)
        for cfg in verifiers.values()
        if not cfg.abstains
        for column in cfg.required_columns()
    }


def refusal_of_row(
    verifiers: Mapping[str, VerifierConfig], deciding: frozenset[str], columns: Mapping[str, Any]
) -> str | None:
    """Return why nobody can judge responses to a row: a verifier cannot, or all abstain."""
    abstained: dict[str, str] = {}
    for name, cfg in verifiers.items():
        reason = cfg.unjudgeable(columns) if cfg.abstains else cfg.refusal(columns)
        if reason is not None:
            abstained[name] = cfg.addressed(f"{reason} ({cfg})")
            if not cfg.abstains:
                return abstained[name]
    if abstained and deciding <= abstained.keys():
        return f"every judge abstains: {'; '.join(abstained[name] for name in sorted(deciding))}"
    return None
