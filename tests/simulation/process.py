"""A simulated process: answers calls, dies, hangs, loses answers.

Owns what Ray and the operating system do to a call. Refuses to own what the process does
(engine.py, trainer.py, judges.py). As in Ray, a call goes on in the process when its caller
gave up, and a failed call may have run.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from rlpost.errors import NoAnswer, ProcessDied

LATENCY_S = 0.002


class Faults:
    """Which fault meets which call; counts what happened."""

    def __init__(self, faults: Any) -> None:
        self._at_call = {(f.target, f.verb, f.nth): f for f in faults if f.verb}
        self._calls: dict[tuple[str, str], int] = {}
        self.injected: dict[str, int] = {}

    def at_call(self, target: str, verb: str) -> Any:
        """Return the fault that meets this call, if any."""
        key = (target, verb)
        self._calls[key] = self._calls.get(key, 0) + 1
        fault = self._at_call.get((*key, self._calls[key]))
        if fault is not None:
            self.note(fault)
        return fault

    def note(self, fault: Any) -> None:
        kind = f"{fault.target.split()[0]} {fault.kind}" + (f" {fault.verb}" if fault.verb else "")
        self.injected[kind] = self.injected.get(kind, 0) + 1


class Process:
    """Example::

    process = Process(world, "generator 0")
    process.body = Engine(process)
    await process.call("health", timeout_s=5)

    Args:
        world: clock, faults and log.
        name: as in errors and in the plan of faults.
        serial: one call at a time, as an actor whose methods are not coroutines.
        alias: another name under which faults are planned.
    """

    def __init__(self, world: Any, name: str, *, serial: bool = False, alias: str = "") -> None:
        self.world, self.name = world, name
        self.body: Any = None
        self.alive = True
        self.slow = 1.0
        self.on_death: Callable[[], None] = lambda: None
        self._alias = alias
        self._turn = asyncio.Lock() if serial else None
        self._hangs_until_s = 0.0
        self._answers: dict[asyncio.Future[Any], str] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}

    # -- the caller's side ------------------------------------------------------------------

    async def call(self, verb: str, *args: Any, timeout_s: float, **kwargs: Any) -> Any:
        """Call a method of the body; the errors are those of ``cluster.handle.Handle``."""
        if self.world.severed:
            raise ProcessDied(f"{self.name} died with the driver")
        answer = asyncio.get_running_loop().create_future()
        self._answers[answer] = verb
        self.spawn(self._serve(answer, verb, args, kwargs), verb)
        try:
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError as error:
            raise NoAnswer(f"{self.name} did not answer {verb} in {timeout_s:g} s") from error
        finally:
            self._answers.pop(answer, None)

    def kill(self) -> None:
        self.die("killed")

    # -- the process's side -----------------------------------------------------------------

    def spawn(self, work: Any, verb: str) -> "asyncio.Task[Any]":
        """Do something in this process."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name}.{verb}")
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            self.world.checker.fail(f"{self.name}: {task.exception()!r}")

    async def _serve(
        self, answer: "asyncio.Future[Any]", verb: str, args: Any, kwargs: Any
    ) -> None:
        faults = self.world.faults
        fault = faults.at_call(self.name, verb)
        if fault is None and self._alias:
            fault = faults.at_call(self._alias, verb)
        kind = "" if fault is None else fault.kind
        if kind:
            self.world.log(f"FAULT {self.name} {verb}: {kind}")
        await asyncio.sleep(LATENCY_S)
        if not self.alive:
            _fail(answer, ProcessDied(f"{self.name} is gone ({verb})"))
            return
        if kind == "lost_call":
            _fail(answer, NoAnswer(f"{self.name} is out of reach ({verb})"))
            return
        if kind == "crash_before":
            self.die(f"before {verb}")
            return
        if kind == "crash_during":
            asyncio.get_running_loop().call_later(self.world.short_s(), self.die, f"during {verb}")
        if kind == "hang":
            self.hang(fault.for_s)
        await self.awake()
        try:
            result, error = await self._run(verb, args, kwargs, kind), None
        except Exception as caught:  # noqa: BLE001 - handed to whoever awaits it
            result, error = None, caught
        if kind == "crash_after":
            self.die(f"after {verb}")
        elif kind == "lost_ack":
            _fail(answer, NoAnswer(f"{self.name} is out of reach (answer of {verb})"))
        elif error is not None:
            _fail(answer, error)
        elif not answer.done():
            answer.set_result(result)
        if kind == "crash_later":
            asyncio.get_running_loop().call_later(
                self.world.short_s(), self.die, f"soon after {verb}"
            )

    async def _run(self, verb: str, args: Any, kwargs: Any, kind: str) -> Any:
        method: Callable[..., Awaitable[Any]] = getattr(self.body, verb)
        if kind in ("damage", "corrupt"):
            kwargs = {**kwargs, kind: True}
        if self._turn is None:
            return await method(*args, **kwargs)
        async with self._turn:
            await self.awake()
            return await method(*args, **kwargs)

    async def work(self, seconds: float) -> None:
        """Let virtual time pass, as this process's work."""
        await asyncio.sleep(seconds * self.slow)
        await self.awake()

    async def awake(self) -> None:
        """Return when this process does not hang."""
        while (left_s := self._hangs_until_s - self.world.now_s) > 0:
            await asyncio.sleep(left_s)

    def hang(self, seconds: float) -> None:
        self._hangs_until_s = self.world.now_s + seconds

    def die(self, why: str) -> None:
        """Everything in it ends; whoever waits for it learns so."""
        if not self.alive:
            return
        self.alive = False
        self.world.log(f"{self.name} dies ({why})")
        for answer, verb in list(self._answers.items()):
            _fail(answer, ProcessDied(f"{self.name} is gone ({verb})"))
        current = asyncio.current_task()
        for task in list(self._tasks):
            if task is not current:
                task.cancel()
        self.on_death()


def _fail(answer: "asyncio.Future[Any]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
