"""Every built-in verifier kind, imported so that the registry is full.

Owns the list of built-in kinds, each of which registers itself. Import ``verifiers`` from here to
see all of them.
"""

from rlpost.verifiers.base import verifiers
from rlpost.verifiers.kinds import exact, format, function, math, names, numeric  # noqa: F401

__all__ = ["verifiers"]
