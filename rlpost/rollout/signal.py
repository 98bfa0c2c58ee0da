"""Wakes coroutines that wait until the state of the driver changes."""

import asyncio


class Signal:
    """Waiters check their condition again after each ``notify``, which carries no value.

    Example::

        while not fleet.serving():
            await signal.wait()
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all present waiters."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self) -> None:
        """Return after the next ``notify``."""
        await self._event.wait()
