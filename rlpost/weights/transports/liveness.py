"""Who still lives of those that share a file.

Owns one lock per member: each process locks the byte of its number, and the kernel unlocks it when
the process ends, however it ends. The locks belong to the open file, so two members in one process
count as two.
"""

import fcntl
import struct

_FLOCK = "hhqqi4x"  # linux/fcntl.h on 64-bit: type, whence, start, length, pid


def live_as(descriptor: int, member: int) -> None:
    """Count as ``member`` until the file is closed.

    Raises:
        OSError: another process does.
    """
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, 0, member, 1, 0)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)


def lives(descriptor: int, member: int) -> bool:
    """Whether a process other than whoever opened ``descriptor`` counts as ``member``."""
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, 0, member, 1, 0)
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, request)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
