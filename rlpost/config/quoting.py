"""Values as hydra's grammar quotes them.

Owns the one rule: a mark inside the value, and backslashes before it, are escaped.
"""

import re


def quoted(value: str, *, mark: str = "'") -> str:
    """Return ``value`` as a quoted string. Example: ``quoted("a (1)") == "'a (1)'"``"""
    escaped = re.sub(rf"(\\+)(?={mark}|$)", r"\1\1", value).replace(mark, f"\\{mark}")
    return f"{mark}{escaped}{mark}"
