"""An actor as an awaitable object with deadlines and our error model.

Owns the translation of Ray's failures and the replacement of stateless actors. Invariants: a
dead process is ProcessDied, an unreachable or late one NoAnswer; an exception raised by the
actor's own code keeps its class.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from rlpost.errors import NoAnswer, ProcessDied

log = logging.getLogger(__name__)

ATTEMPTS = 4  # of a call that can be made again on new processes


class Handle:
    """Calls one actor.

    Args:
        actor: raw Ray handle.
        name: how errors call it, for example ``generator 1``.
        timeout_s: deadline of a call that names none.
    """

    def __init__(self, actor: Any, *, name: str, timeout_s: float) -> None:
        self._actor = actor
        self._timeout_s = timeout_s
        self.name = name

    async def call(
        self, method: str, *args: Any, timeout_s: float | None = None, **kwargs: Any
    ) -> Any:
        """Call ``method`` and await its result.

        Raises:
            ProcessDied: the actor died.
            NoAnswer: it is unreachable or missed the deadline, and the call may have run; or it
                could not fetch its arguments from the object store.
        """
        from ray.exceptions import (
            ActorDiedError,
            ActorUnavailableError,
            ObjectLostError,
            OutOfMemoryError,
            RayTaskError,
        )

        deadline = timeout_s or self._timeout_s
        try:
            reference = getattr(self._actor, method).remote(*args, **kwargs)
            return await asyncio.wait_for(asyncio.wrap_future(reference.future()), deadline)
        except TimeoutError as error:
            raise NoAnswer(f"{self.name} did not answer {method} in {deadline:g} s") from error
        except ActorDiedError as error:
            raise ProcessDied(f"{self.name} is gone ({method}): {error}") from error
        except OutOfMemoryError as error:  # Ray ends a process before the kernel would
            raise ProcessDied(
                f"{self.name} was killed ({method}): its node ran out of memory; `rlpost plan` "
                "prints what each process needs"
            ) from error
        except ActorUnavailableError as error:
            raise NoAnswer(f"{self.name} is out of reach ({method}): {error}") from error
        except ObjectLostError as error:
            raise self._unfetched(method, error) from error
        except RayTaskError as error:
            if isinstance(error.cause, ObjectLostError):
                raise self._unfetched(method, error.cause) from error
            if isinstance(error.cause, Exception):  # says it in a line; Ray's has the traceback
                raise error.cause from error
            raise error.as_instanceof_cause() from error

    def _unfetched(self, method: str, lost: Exception) -> NoAnswer:
        """Return what is said when an argument is a reference to what no store has any more."""
        why = str(lost).splitlines()[0]
        return NoAnswer(f"{self.name} could not fetch what it was given ({method}): {why}")

    def kill(self) -> None:
        """End the process whatever it is doing; harmless when it is gone."""
        import ray

        ray.kill(self._actor)


class Stateless:
    """Calls an actor that can be replaced at any time: repeats a call that failed.

    Args:
        spawn: starts a new actor.
        attempts: of one call.
    """

    def __init__(self, spawn: Callable[[], Handle], *, attempts: int = ATTEMPTS) -> None:
        self._spawn = spawn
        self._handle = spawn()
        self._attempts = attempts

    async def call(
        self, method: str, *args: Any, timeout_s: float | None = None, **kwargs: Any
    ) -> Any:
        """Call ``method``, on a new actor when the old one died or hangs.

        Raises:
            ProcessDied, NoAnswer: in every attempt.
        """
        async for attempt in retrying(self._attempts):
            with attempt:
                handle = self._handle
                try:
                    return await handle.call(method, *args, timeout_s=timeout_s, **kwargs)
                except (ProcessDied, NoAnswer):
                    self._replace(handle)
                    raise
        raise AssertionError("unreachable: the last attempt re-raises")

    async def sleep(self) -> int:
        """Have the model leave memory until the next call; returns the bytes.

        A model that is dead or hangs counts as asleep: the next call replaces it.
        """
        try:
            return await self._handle.call("sleep")
        except (ProcessDied, NoAnswer) as error:
            log.warning("an idle model stays where it is: %s", error)
            return 0

    def kill(self) -> None:
        """End the actor for good."""
        self._handle.kill()

    def _replace(self, failed: Handle) -> None:
        if self._handle is failed:  # several calls fail together; one replaces
            failed.kill()
            self._handle = self._spawn()


def retrying(attempts: int) -> AsyncRetrying:
    """Return the attempts of a call to processes that hold no state, with growing waits."""
    return AsyncRetrying(
        retry=retry_if_exception_type((ProcessDied, NoAnswer)),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=0.2, max=10),
        reraise=True,
    )
