"""Names of sweeps and of their members: readable, unique, the same for the same options.

Owns the names. Pure functions. Invariants: two members that differ in an option have
different names; a name depends on options alone, never on an order or a count, so that the
same command finds the runs it began.
"""

import hashlib
import re
from collections.abc import Collection, Sequence

_MAX_LENGTH = 100  # of what is added to the run's name; a directory name has a limit


def member_name(base: str, overrides: Sequence[str], *, keys: Collection[str]) -> str:
    """Return the run name of the member with ``overrides``, of which ``keys`` vary.

    Example: ``member_name("rl", ["trainer.steps=9", "seed=1"], keys={"seed"})`` is ``rl-seed=1``
    """
    added = _readable(",".join(varying(overrides, keys=keys)))
    return f"{base}-{added}" if added else base


def sweep_name(base: str, *, keys: Collection[str]) -> str:
    """Return the name of the sweep over ``keys``: its directory and its W&B group."""
    return "-".join(part for part in ("sweep", base, _readable(",".join(sorted(keys)))) if part)


def varying(overrides: Sequence[str], *, keys: Collection[str]) -> list[str]:
    """Return, sorted, those of ``overrides`` that make a member differ.

    ``run.name`` is not among them: it is in the name already.
    """
    return sorted(each for each in overrides if (key := key_of(each)) in keys and key != "run.name")


def key_of(override: str) -> str:
    """Return what an override sets: ``seed`` of ``seed=1``."""
    return override.partition("=")[0]


def _readable(text: str) -> str:
    plain = re.sub(r"[^\w.=+,-]", "_", text)
    if plain == text and len(plain) <= _MAX_LENGTH:
        return plain
    # What was cut or replaced still tells members apart.
    digest = hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
    return f"{plain[: _MAX_LENGTH - 7]}-{digest}"
