"""How long a phase of a push may take.

Owns the arithmetic of the default, and who gives up first. Refuses to own what happens at a
deadline (bus.py, transports/). Invariant: in a joint transfer the sender gives up first, because it
knows who is missing and tells the others; then receivers, whose sender does not tell; then the bus.
"""

import time
from collections.abc import Callable

from rlpost.bounds import WEEK_S
from rlpost.errors import WeightPushError

LEAST_S = 120.0
# What the slowest path that is meant to be used still moves: a network of 2 Gbit/s. A phase that
# copies, checks or loads on the host is several times faster.
FLOOR_BYTES_PER_S = 0.25e9
# The deadlines of a joint transfer in those of a phase, each from when that party begins. That of
# the sender is one.
RECEIVER_PHASES, BUS_PHASES = 2.0, 3.0
# Of a call that is part of a push: the bus ends the phase before, whatever its deadline is.
CALL_S = BUS_PHASES * WEEK_S


def phase_deadline_s(given_s: float | None, size_bytes: float) -> float:
    """Return the deadline of each phase of a push, in seconds: what was given, or by its size.

    Args:
        given_s: ``weights.timeout_s``.
        size_bytes: of the payload.

    Example: 70B parameters in bfloat16 have ``phase_deadline_s(None, 141e9) == 684``.
    """
    return LEAST_S + size_bytes / FLOOR_BYTES_PER_S if given_s is None else given_s


class Deadline:
    """The end of a transfer, which all its waits have in common.

    A peer that answers just before each wait has ended would make a transfer last for hours.

    Args:
        timeout_s: from now on.
        clock: seconds.
    """

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._until_s = clock() + timeout_s

    def look(self, waited_for: str) -> None:
        """Return if it has not passed.

        Raises:
            WeightPushError: it has; says what came too late.
        """
        if self._clock() >= self._until_s:
            raise WeightPushError(
                f"a push did not end in {self._timeout_s:g} s, and waited for {waited_for} "
                "(weights.timeout_s)"
            )
