"""Whether Weights & Biases is online, offline or off, decided without importing it.

Owns the meaning of ``tracking.wandb=auto``. Invariant: ``auto`` never goes online without a
key, so a run never waits at a log-in prompt.
"""

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rlpost.tracking.config import WandbMode

_HOST = "https://api.wandb.ai"


def resolve_mode(mode: WandbMode, *, environ: Mapping[str, str] | None = None) -> WandbMode:
    """Return online, offline or disabled.

    ``auto`` follows WANDB_MODE where it is set, else a key (WANDB_API_KEY or netrc).
    """
    env = os.environ if environ is None else environ
    if mode is not WandbMode.auto:
        return mode
    wanted = env.get("WANDB_MODE", "").lower()
    if wanted in ("online", "offline", "disabled"):
        return WandbMode(wanted)
    return WandbMode.online if _has_key(env) else WandbMode.offline


def _has_key(env: Mapping[str, str]) -> bool:
    if env.get("WANDB_API_KEY"):
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
