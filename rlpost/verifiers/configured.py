"""Which verifiers a run has: the one place that reads ``cfg.verifier`` and ``cfg.verifiers``.

Owns the names of a run's verifiers. Invariant: every verifier has a name of its own, under which
its verdicts, metrics and weight are found.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from rlpost.errors import UserError
from rlpost.verifiers.base import VerifierConfig

_NAME = re.compile(r"[A-Za-z_][\w-]{0,63}", re.ASCII)


def configured(
    verifier: VerifierConfig | None, verifiers: Mapping[str, VerifierConfig] | None = None
) -> dict[str, VerifierConfig]:
    """Return a config per verifier: first those of ``verifier``, then ``verifiers`` as written.

    Args:
        verifier: the setting of that name, whose functions may be several verifiers; None: all
            are in ``verifiers``.
        verifiers: more of them, by names of the user's choice.

    Raises:
        UserError: a setting does not fit.
    """
    found = {} if verifier is None else _expanded(verifier)
    for name, cfg in (verifiers or {}).items():
        place = f"verifiers.{name}"
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{place}: a name must consist of letters, digits, _ and -, begin with a letter "
                f"or _, and have at most 64 characters, got {name!a:.100}; choose another"
            )
        if name in found:
            raise UserError(
                f"{place} has the name of a verifier that verifier.* configures; choose another"
            )
        own = _expanded(replace(cfg, place=place))
        if len(own) > 1:
            raise UserError(
                f"{place}.path must name one function, got {len(own)}: {', '.join(own)}; give each "
                "a name of its own: +verifier@verifiers.NAME=function"
            )
        (found[name],) = own.values()
    return found


def _expanded(cfg: VerifierConfig) -> dict[str, VerifierConfig]:
    try:
        return dict(cfg.expanded())
    except UserError as error:
        raise UserError(cfg.addressed(f"{cfg.place}.{error}")) from None
