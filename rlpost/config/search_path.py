"""Where the YAML tree lies: in a wheel and in a checkout.

Owns the answer to one question. Refuses to own hydra's set-up (store.py).
"""

from pathlib import Path

import rlpost


def config_dir() -> Path:
    """Return the directory that holds ``experiment/`` and the other config groups.

    A wheel carries the tree as ``rlpost/configs``; a checkout keeps it beside ``rlpost/``.
    """
    package = Path(rlpost.__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
