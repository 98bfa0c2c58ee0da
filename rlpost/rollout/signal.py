"""Waking whoever waits for the state of the driver to change."""

import asyncio


class Signal:
    """Waiters look again after each ``notify``; nothing is handed over.

    Example::

        while not fleet.serving():
            await signal.wait()
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all that wait now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self) -> None:
        """Return after the next ``notify``."""
        await self._event.wait()
