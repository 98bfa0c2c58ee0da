"""How a failed write shows that the disk has no room.

Owns the recognition. Refuses to own what follows from it (cache.py, checkpoint/space.py, cli/).
"""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)
# What libraries that hide errno (safetensors, torch) write when the disk is full.
_FULL_TEXTS = ("no space left on device", "pytorchstreamwriter failed writing")


def says_full(error: BaseException) -> bool:
    """Whether ``error``, of the system or of a library around it, is that of a full disk."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    text = str(error).lower()
    return any(known in text for known in _FULL_TEXTS)
