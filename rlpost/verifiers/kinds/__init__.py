"""Every built-in verifier kind, imported so that the registry is full.

Owns the list of built-in kinds. Import ``verifiers`` from here to see all of them.
"""

from rlpost.verifiers.base import verifiers
from rlpost.verifiers.kinds import exact, function, math, numeric  # noqa: F401  (they register)

__all__ = ["verifiers"]
