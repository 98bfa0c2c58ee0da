"""An asyncio event loop whose clock only moves when nobody has anything to do.

Owns virtual time, its bound, and the diagnosis of a deadlock. Uses no real clock, no thread
and no socket, so a run is a function of what it is given. Invariant: time jumps to the next
timer exactly when nothing is ready.
"""

import asyncio
from collections.abc import Callable
from typing import Any


class Deadlock(AssertionError):
    """Nothing is ready, no timer is set, and somebody still waits."""


class TooLong(AssertionError):
    """The run passed its bound of virtual time or of iterations."""


class Stopped(BaseException):
    """The whole driver was ended from outside, as by ``kill -9``."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Example::

    loop = VirtualLoop(max_s=3600)
    loop.run_until_complete(main())
    print(loop.time())

    Args:
        start_s: reading of the clock at the beginning.
        max_s: bound of the clock.
        max_iterations: bound of turns of the loop.
        disk_s: seconds that work in a thread takes.
        on_turn: called on every turn with its number; may raise ``Stopped``.
    """

    def __init__(
        self,
        *,
        start_s: float = 0.0,
        max_s: float = 1e6,
        max_iterations: int = 1_000_000,
        disk_s: Callable[[], float] = lambda: 0.0,
        on_turn: Callable[[int], None] = lambda turn: None,
    ) -> None:
        super().__init__()
        self._clock_resolution = 1e-9
        self._selector = self  # the base class asks it how long to wait
        self._now_s = start_s
        self._max_s, self._max_iterations = max_s, max_iterations
        self._disk_s, self._on_turn = disk_s, on_turn
        self.turns = 0
        self.errors: list[str] = []
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None) -> list[Any]:
        """Move the clock instead of waiting for files."""
        self.turns += 1
        if self.turns > self._max_iterations:
            raise TooLong(f"{self.turns} turns at {self._now_s:.3f} s\n{self.describe()}")
        self._on_turn(self.turns)
        if timeout is None:
            raise Deadlock(f"nobody can go on at {self._now_s:.3f} s\n{self.describe()}")
        if timeout > 0:
            self._now_s = self._scheduled[0]._when
        if self._now_s > self._max_s:
            raise TooLong(f"still running at {self._now_s:.3f} s\n{self.describe()}")
        return []

    def describe(self) -> str:
        """Who waits, and where."""
        lines = []
        for task in sorted(asyncio.all_tasks(self), key=lambda task: task.get_name()):
            frames = task.get_stack(limit=1)
            where = [f"{f.f_code.co_filename.rsplit('/', 2)[-1]}:{f.f_lineno}" for f in frames]
            lines.append(f"  {task.get_name()} at {' < '.join(where)} ({_depth(task)})")
        return "\n".join(lines)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run ``func`` here, in the middle of a stretch of virtual time."""
        done = self.create_future()

        def work() -> None:
            try:
                result, error = func(*args), None
            except Exception as caught:  # noqa: BLE001 - handed to whoever awaits it
                result, error = None, caught
            self.call_later(self._disk_s(), finish, result, error)

        def finish(result: Any, error: Exception | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        self.call_later(self._disk_s(), work)
        return done

    def cancel_all(self, *, rounds: int = 50) -> None:
        """End every task; what they do in ``finally`` runs."""
        self._max_s, self._max_iterations = float("inf"), self.turns + 100_000
        for _ in range(rounds):
            tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            self.run_until_complete(asyncio.wait(tasks, timeout=1e-3))
        raise Deadlock(f"tasks that cannot be cancelled:\n{self.describe()}")

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {error!r}")

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


def _depth(task: "asyncio.Task[Any]") -> str:
    """The chain of coroutines a task is suspended in, innermost last."""
    names, coro = [], task.get_coro()
    while coro is not None and len(names) < 12:
        frame = getattr(coro, "cr_frame", None)
        if frame is None:
            break
        names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        coro = getattr(coro, "cr_await", None)
    return " > ".join(names)
