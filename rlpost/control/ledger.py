"""Exact accounting of prompts: each admitted uid ends exactly once.

Owns which prompts are outstanding, and how many were consumed or dropped and why. Refuses to own
the decision to drop, retry or admit. Invariant: admitted = consumed + dropped + outstanding, and a
uid that has ended can be neither ended nor admitted again. Pure: no clock, no torch.

Memory use is one bit per row of each epoch seen, plus the outstanding uids.
"""

import base64
import re
import zlib
from dataclasses import dataclass
from typing import Any

_UID = re.compile(r"(\d+):(\d+)")
_REASON = re.compile(r"[a-z][a-z0-9_]*")


class LedgerViolation(AssertionError):
    """The program broke the accounting of prompts; our bug, never the user's."""


@dataclass(frozen=True, kw_only=True)
class LedgerCounts:
    """How many prompts are in which state.

    Example: ``LedgerCounts(admitted=9, consumed=6, dropped={"stale": 1}, outstanding=2)``
    """

    admitted: int
    consumed: int
    dropped: dict[str, int]  # by reason
    outstanding: int


class Ledger:
    """Records every admitted prompt as outstanding, consumed or dropped(reason).

    Example::

        ledger = Ledger()
        ledger.admit("0:17")
        ledger.consume("0:17", step=1)
        assert ledger.balanced()
    """

    def __init__(self) -> None:
        self._admitted = 0
        self._consumed = 0
        self._dropped: dict[str, int] = {}
        self._outstanding: dict[str, None] = {}  # insertion order = admission order
        self._ended: dict[int, bytearray] = {}  # epoch -> bitmap over rows
        self._last_step = 0

    def admit(self, uid: str) -> None:
        """Record a prompt as outstanding.

        Raises:
            LedgerViolation: the uid is malformed, outstanding, or has ended before.
        """
        if uid in self._outstanding:
            raise LedgerViolation(f"prompt {uid} admitted while it is still outstanding")
        if self.has_ended(uid):
            raise LedgerViolation(f"prompt {uid} admitted again after it had ended")
        self._admitted += 1
        self._outstanding[uid] = None

    def consume(self, uid: str, step: int) -> None:
        """End a prompt as part of the batch of optimizer step ``step``.

        Raises:
            LedgerViolation: the uid is not outstanding, or ``step`` went backwards.
        """
        if step < self._last_step:
            raise LedgerViolation(
                f"prompt {uid} consumed at step {step}, after step {self._last_step} was recorded"
            )
        self._end(uid, f"consumed at step {step}")
        self._consumed += 1
        self._last_step = step

    def drop(self, uid: str, reason: str) -> None:
        """End a prompt without training on it; ``reason`` is a short snake_case word.

        Raises:
            LedgerViolation: the uid is not outstanding, or the reason is free text (which
                would make the counts grow without bound).
        """
        if not _REASON.fullmatch(reason):
            raise LedgerViolation(f"drop reason must be a snake_case word, got {reason!r}")
        self._end(uid, f"dropped ({reason})")
        self._dropped[reason] = self._dropped.get(reason, 0) + 1

    def outstanding(self) -> tuple[str, ...]:
        """Return the uids that have not ended, in admission order."""
        return tuple(self._outstanding)

    def has_ended(self, uid: str) -> bool:
        """Return whether the uid was consumed or dropped.

        Raises:
            LedgerViolation: the uid is malformed.
        """
        epoch, row = _parse(uid)
        rows = self._ended.get(epoch, b"")
        return row // 8 < len(rows) and bool(rows[row // 8] >> (row % 8) & 1)

    @property
    def counts(self) -> LedgerCounts:
        return LedgerCounts(
            admitted=self._admitted,
            consumed=self._consumed,
            dropped=dict(self._dropped),
            outstanding=len(self._outstanding),
        )

    def balanced(self) -> bool:
        """Check the invariant against independent records: counters, bitmaps, outstanding uids."""
        counted = self._consumed + sum(self._dropped.values())
        marked = sum(int.from_bytes(rows, "little").bit_count() for rows in self._ended.values())
        disjoint = not any(self.has_ended(uid) for uid in self._outstanding)
        return counted == marked and disjoint and self._admitted == counted + len(self._outstanding)

    def state_dict(self) -> dict[str, Any]:
        """Return a JSON-able copy; the bitmaps are compressed text."""
        return {
            "admitted": self._admitted,
            "consumed": self._consumed,
            "dropped": dict(self._dropped),
            "outstanding": list(self._outstanding),
            "last_step": self._last_step,
            "ended": {
                str(epoch): base64.b64encode(zlib.compress(bytes(rows))).decode()
                for epoch, rows in self._ended.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace everything by a saved state; outstanding prompts stay outstanding.

        Raises:
            LedgerViolation: the saved state does not balance; this ledger is unchanged.
        """
        loaded = Ledger()
        loaded._admitted = state["admitted"]
        loaded._consumed = state["consumed"]
        loaded._dropped = dict(state["dropped"])
        loaded._outstanding = dict.fromkeys(state["outstanding"])
        loaded._last_step = state["last_step"]
        loaded._ended = {
            int(epoch): bytearray(zlib.decompress(base64.b64decode(rows)))
            for epoch, rows in state["ended"].items()
        }
        if not loaded.balanced():
            raise LedgerViolation(f"saved ledger does not balance: {loaded.counts}")
        self.__dict__.update(loaded.__dict__)

    def _end(self, uid: str, how: str) -> None:
        if uid not in self._outstanding:
            state = "had already ended" if self.has_ended(uid) else "was never admitted"
            raise LedgerViolation(f"prompt {uid} {how}, but it {state}")
        del self._outstanding[uid]
        epoch, row = _parse(uid)
        rows = self._ended.setdefault(epoch, bytearray())
        if len(rows) <= row // 8:
            rows.extend(bytes(row // 8 + 1 - len(rows)))
        rows[row // 8] |= 1 << (row % 8)


def _parse(uid: str) -> tuple[int, int]:
    match = _UID.fullmatch(uid)
    if match is None:
        raise LedgerViolation(f'prompt uid must be "<epoch>:<row>", got {uid!r}')
    return int(match[1]), int(match[2])
