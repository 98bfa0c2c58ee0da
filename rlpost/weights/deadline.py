"""How long a phase of a push may take.

Owns the arithmetic of the default, and that no other deadline comes first. Refuses to own what
happens at a deadline (bus.py, transports/).
"""

from rlpost.bounds import WEEK_S

LEAST_S = 120.0
# What the slowest path that is meant to be used still moves: a network of 2 Gbit/s. A phase that
# copies, checks or loads on the host is several times faster.
FLOOR_BYTES_PER_S = 0.25e9
# Of a call that is part of a push: the bus ends the phase before, whatever its deadline is, which
# for a joint transfer is twice that of a phase.
CALL_S = 2.0 * WEEK_S


def phase_deadline_s(given_s: float | None, size_bytes: float) -> float:
    """Return the deadline of each phase of a push, in seconds: what was given, or by its size.

    Args:
        given_s: ``weights.timeout_s``.
        size_bytes: of the payload.

    Example: 70B parameters in bfloat16 have ``phase_deadline_s(None, 141e9) == 684``.
    """
    return LEAST_S + size_bytes / FLOOR_BYTES_PER_S if given_s is None else given_s
