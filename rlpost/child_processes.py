"""What a child process does before it becomes another program.

Owns the tie between the lives of both. Refuses to own who starts what. Invariant: a child whose
parent ends is told by the kernel, however the parent ended and whatever the child is doing.
"""

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ends_with_us(*, sent: signal.Signals = signal.SIGKILL, status: int = 1) -> Callable[[], None]:
    """Return what goes to ``preexec_fn``: the child ends when this process does.

    Args:
        sent: the signal that it gets.
        status: with which it ends if this process has ended already.
    """
    libc, parent = ctypes.CDLL(None), os.getpid()  # opened before the fork

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, sent)
        if os.getppid() != parent:
            os._exit(status)

    return prepare
