"""Decides whether Weights & Biases is online, offline or off, without importing it.

Owns the meaning of ``tracking.wandb``. Invariant: without a key W&B is never online, so a run
never waits at a log-in prompt.
"""

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rlpost.errors import UserError
from rlpost.tracking.config import WandbMode

_HOST = "https://api.wandb.ai"


def resolve_mode(mode: WandbMode, *, environ: Mapping[str, str] | None = None) -> WandbMode:
    """Return online, offline or disabled.

    ``auto`` follows WANDB_MODE where it is set, else it is online iff there is a key
    (WANDB_API_KEY, an identity token or netrc).

    Raises:
        UserError: online was asked for and there is no key.
    """
    env = os.environ if environ is None else environ
    keyed, asked = has_key(env), "tracking.wandb"
    if mode is WandbMode.auto:
        wanted = env.get("WANDB_MODE", "").lower()
        if wanted not in ("online", "offline", "disabled"):
            return WandbMode.online if keyed else WandbMode.offline
        mode, asked = WandbMode(wanted), "WANDB_MODE"
    if mode is WandbMode.online and not keyed:
        raise UserError(
            f"{asked}=online needs a key and none was found: set WANDB_API_KEY, run "
            "`wandb login`, or use tracking.wandb=offline and `wandb sync` later"
        )
    return mode


def has_key(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether there is a key for the W&B server in use, without asking the server."""
    env = os.environ if environ is None else environ
    if env.get("WANDB_API_KEY") or env.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(env.get("WANDB_BASE_URL", _HOST)).hostname or ""
    home = Path(env.get("HOME") or Path.home())
    named = [Path(env["NETRC"]).expanduser()] if env.get("NETRC") else []
    for path in named or [home / ".netrc", home / "_netrc"]:
        try:
            if netrc.netrc(str(path)).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
