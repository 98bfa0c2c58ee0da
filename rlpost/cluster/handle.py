"""An actor as an awaitable object with deadlines and our error model.

Owns the translation of Ray's failures: a dead or unreachable process is an
InfrastructureError; an exception raised by the actor's own code keeps its class.
"""

import asyncio
from typing import Any

from rlpost.errors import InfrastructureError


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
            InfrastructureError: the actor died, is unreachable, or missed the deadline.
        """
        from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

        deadline = timeout_s or self._timeout_s
        try:
            reference = getattr(self._actor, method).remote(*args, **kwargs)
            return await asyncio.wait_for(asyncio.wrap_future(reference.future()), deadline)
        except TimeoutError as error:
            raise InfrastructureError(
                f"{self.name} did not answer {method} in {deadline:g} s"
            ) from error
        except (ActorDiedError, ActorUnavailableError) as error:
            raise InfrastructureError(f"{self.name} is gone ({method}): {error}") from error
        except RayTaskError as error:
            raise error.as_instanceof_cause() from error
