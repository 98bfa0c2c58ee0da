"""Who works on which sandbox: a bounded number of calls at a time, and spares for the overdue.

Owns the sandboxes, from their start to their end. Refuses to know what a call does. Invariant:
at most ``num_workers`` calls that are on time run at once; a call that has become overdue no
longer counts among them, so that another may begin on a spare sandbox, until ``num_spares``
calls are overdue; a spare ends when the overdue call that it stood in for has ended.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

from rlpost.errors import InfrastructureError
from rlpost.verifiers.workers.sandbox import Sandbox, SandboxClosed


class Turn:
    """One call's right to a sandbox."""

    def __init__(self, sandbox: Sandbox, pool: "Pool") -> None:
        self.sandbox = sandbox
        self.is_overdue = False
        self._pool = pool

    def overdue(self) -> None:
        """Let another call begin, because this one takes long; may be said again."""
        if not self.is_overdue:
            self.is_overdue = True
            self._pool._lend()


class Pool:
    """Sandboxes and turns on them; any thread that lives until ``close`` may take one.

    Example::

        pool = Pool(lambda: Sandbox(configs), num_workers=2, num_spares=6)
        with pool.turn() as turn:
            turn.sandbox.call(...)
    """

    def __init__(self, make: Callable[[], Sandbox], *, num_workers: int, num_spares: int) -> None:
        self._make = make
        self._num_workers, self._num_spares = num_workers, num_spares
        self._condition = threading.Condition()  # guards all that follows
        self._sandboxes: set[Sandbox] = set()
        self._idle: list[Sandbox] = []
        self._num_busy = self._num_overdue = self._num_lost = 0
        self._closed = False

    @contextlib.contextmanager
    def turn(self) -> Iterator[Turn]:
        """Wait for a turn, and hold it.

        Raises:
            SandboxClosed: the pool is closed.
        """
        turn = Turn(self._take(), self)
        try:
            yield turn
        finally:
            self._give_back(turn)

    def add(self) -> None:
        """Start one sandbox more, for the turns to come."""
        with self._condition:
            self._num_busy += 1
            sandbox = self._made()
        self._give_back(Turn(sandbox, self))

    def alive(self) -> int:
        with self._condition:
            return sum(sandbox.alive for sandbox in self._sandboxes)

    def num_lost(self) -> int:
        """Return how many workers died or had to be killed."""
        with self._condition:
            return self._num_lost + sum(sandbox.num_lost for sandbox in self._sandboxes)

    def interrupt(self) -> None:
        """Make all calls in progress fail, and refuse new turns."""
        with self._condition:
            self._closed = True
            for sandbox in self._sandboxes:
                sandbox.interrupt()
            self._condition.notify_all()

    def close(self) -> None:
        """End all sandboxes; call it when no turn is held any more."""
        self.interrupt()
        for sandbox in self._sandboxes:
            sandbox.close()

    def _take(self) -> Sandbox:
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._num_busy < self._num_allowed())
            if self._closed:
                raise SandboxClosed("the verifier service is closed")
            self._num_busy += 1
            return self._idle.pop() if self._idle else self._made()

    def _made(self) -> Sandbox:
        sandbox = self._make()
        self._sandboxes.add(sandbox)
        if self._closed:
            sandbox.interrupt()
        return sandbox

    def _num_allowed(self) -> int:
        return self._num_workers + min(self._num_overdue, self._num_spares)

    def _lend(self) -> None:
        with self._condition:
            self._num_overdue += 1
            self._condition.notify_all()

    def _give_back(self, turn: Turn) -> None:
        sandbox = turn.sandbox
        with self._condition:
            self._num_overdue -= turn.is_overdue
            surplus = len(self._sandboxes) > self._num_allowed()
            if surplus:
                self._sandboxes.remove(sandbox)
                self._num_lost += sandbox.num_lost
        if surplus:
            sandbox.close()
        elif not sandbox.alive:
            with contextlib.suppress(InfrastructureError):  # the next call will say why
                sandbox.start()  # it boots while nobody waits for it
        with self._condition:
            self._num_busy -= 1
            if not surplus:
                self._idle.append(sandbox)
            self._condition.notify_all()
