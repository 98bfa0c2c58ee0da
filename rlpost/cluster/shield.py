"""Keeping a scheduler's SIGTERM away from the processes that the driver still needs to save.

Owns the hook that Ray runs first in every worker of a joined cluster. Refuses to own who blocks
the signal in the first place (ray_node.py). Invariant: where nobody blocked it, nothing changes.
"""

import signal
from multiprocessing import resource_tracker


def keep_blocked() -> None:
    """Keep SIGTERM blocked where it was inherited so; runs in the main thread.

    Python's multiprocessing unblocks it, whatever it was before, when it starts the tracker of
    shared memory. So that is done now, once, and undone; later uses find the tracker running.
    """
    if signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
        return
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
