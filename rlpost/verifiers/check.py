"""Are these verifiers usable? Asked by the driver before anything expensive starts.

Owns the eager validation. The kinds are built in a sandbox exactly as a worker will build
them, so the user's module never runs in the driver.
"""

import os
from collections.abc import Mapping, Sequence

from rlpost.bounds import check_config
from rlpost.errors import UserError
from rlpost.verifiers.base import Declaration, VerifierConfig
from rlpost.verifiers.kinds import verifiers
from rlpost.verifiers.kinds.build import entry_of
from rlpost.verifiers.workers.environment import NAME
from rlpost.verifiers.workers.sandbox import Sandbox


def check(configs: Mapping[str, VerifierConfig]) -> dict[str, VerifierConfig]:
    """Return configs that are valid and mean the same on every process of this host.

    Takes about as long as one worker needs to start (0.3 s; 1 s with ``math``).

    Args:
        configs: name -> config, as for ``VerifierService``.

    Raises:
        UserError: a setting is out of range, or a verifier cannot be built.
        InfrastructureError: the worker died or hung while it built them.
    """
    if not configs:
        raise UserError("at least one verifier must be configured; choose verifier=math")
    for cfg in configs.values():
        check_config(cfg, cfg.place)
        _check_env(cfg.env, f"{cfg.place}.env")
        verifiers.get(cfg.kind)
    resolved = {name: _resolved(cfg) for name, cfg in configs.items()}
    sandbox = Sandbox(resolved)
    try:
        refusals = sandbox.wait_ready()
    finally:
        sandbox.close()
    for name, reason in refusals.items():
        cfg, rule = resolved[name], reason.removeprefix("UserError: ")
        if rule != reason:
            raise UserError(cfg.addressed(f"{cfg.place}.{rule}"))
        raise UserError(f"{cfg.place} ({cfg.kind}) cannot be loaded: {reason}")
    return {
        name: cfg.settled(sandbox.declared.get(name, Declaration()))
        for name, cfg in resolved.items()
    }


def _check_env(names: Sequence[str], place: str) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            shown = name.partition("=")[0]  # what follows may be a key
            raise UserError(
                f"{place} must list names of environment variables, got {shown!r}"
                f"{' with a value' if '=' in name else ''}; write {place}=[NAME] and export NAME "
                "before the run: its value is never written down"
            )
        if name not in os.environ:
            raise UserError(
                f"{place} names {name}, which is not set; export it before the run (on a "
                "cluster, on every node too), or take it out of the list"
            )


def _resolved(cfg: VerifierConfig) -> VerifierConfig:
    try:
        entry_of(cfg)
        return cfg.resolved()
    except UserError as error:
        raise UserError(cfg.addressed(f"{cfg.place}.{error}")) from None
