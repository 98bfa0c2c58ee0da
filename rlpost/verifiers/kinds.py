"""Every built-in verifier kind, imported so that the registry is full.

Owns the list of built-in kinds. Import ``verifiers`` from here to see all of them.
"""

from rlpost.errors import UserError
from rlpost.registry import Entry
from rlpost.verifiers import exact, function, math, numeric  # noqa: F401  (they register)
from rlpost.verifiers.base import Judge, VerifierConfig, verifiers

__all__ = ["build", "entry_of", "verifiers"]


def build(cfg: VerifierConfig) -> Judge:
    """Return the judge that ``cfg`` describes; runs user code, so call it in a sandbox.

    Raises:
        UserError: unknown kind, a config of another kind, or a setting the kind refuses.
    """
    judge: Judge = entry_of(cfg).target(cfg)
    return judge


def entry_of(cfg: VerifierConfig) -> Entry:
    """Return the registered kind that ``cfg`` configures.

    Raises:
        UserError: unknown kind, or a config of another kind.
    """
    entry = verifiers.get(cfg.kind)
    if not isinstance(cfg, entry.config):
        raise UserError(
            f"kind={cfg.kind} takes a {entry.config.__name__}, got {type(cfg).__name__}; "
            "choose the kind with verifier=KIND instead of setting verifier.kind"
        )
    return entry
