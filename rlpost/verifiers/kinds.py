"""Every built-in verifier kind, imported so that the registry is full.

Owns the list of built-in kinds. Import ``verifiers`` from here to see all of them.
"""

from rlpost.errors import UserError
from rlpost.verifiers import exact, function, math, numeric  # noqa: F401  (they register)
from rlpost.verifiers.base import Judge, VerifierConfig, verifiers

__all__ = ["build", "verifiers"]


def build(cfg: VerifierConfig) -> Judge:
    """Return the judge that ``cfg`` describes; runs user code, so call it in a sandbox.

    Raises:
        UserError: unknown kind, a config of another kind, or a setting the kind refuses.
    """
    entry = verifiers.get(cfg.kind)
    if not isinstance(cfg, entry.config):
        raise UserError(
            f"kind={cfg.kind} takes a {entry.config.__name__}, got {type(cfg).__name__}; "
            "choose the kind with verifier=KIND instead of setting verifier.kind"
        )
    judge: Judge = entry.target(cfg)
    return judge
