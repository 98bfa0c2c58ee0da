"""Python's cyclic garbage collector during set-up.

Owns when it pauses. Refuses to own what is imported meanwhile.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Pause the collector while libraries are imported, which takes a quarter of the time.

    Importing makes hundreds of thousands of objects that all stay, and the collector visits those
    it knows again and again while they grow. What is unreachable is collected soon afterwards.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
