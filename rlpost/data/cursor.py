"""The order of rows: a position in an endless sequence of epochs.

Owns the order of prompts and its resumption. Refuses to own rows and tokens. Invariants:
every row appears once an epoch; the order is a function of (seed, epoch) alone, so a
resumed run sees exactly the prompts it would have seen; a state is never loaded into
another dataset.
"""

import random
from typing import TYPE_CHECKING, Any

from rlpost.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def prompt_uid(epoch: int, row: int) -> str:
    """Return the uid of a prompt, unique within a run: ``"<epoch>:<row>"``."""
    return f"{epoch}:{row}"


def parse_uid(uid: str) -> tuple[int, int]:
    """Return ``(epoch, row)`` of ``prompt_uid``."""
    epoch, row = uid.split(":")
    return int(epoch), int(row)


def shuffled(num_rows: int, *, key: str) -> "npt.NDArray[np.int64]":
    """Return the rows in an order that ``key`` alone decides, in every version and machine.

    Rows are sorted by the numbers of ``random.Random(key).random()``, whose sequence Python
    guarantees, unlike that of ``shuffle``. NumPy's frozen ``RandomState`` continues from the same
    state with the same numbers, many times faster.
    """
    import numpy as np  # late, so that settings are read without it

    _, state, _ = random.Random(key).getstate()
    generator = np.random.RandomState()
    generator.set_state(("MT19937", np.array(state[:-1], np.uint32), state[-1], 0, 0.0))
    return np.argsort(generator.random_sample(num_rows), kind="stable")


class PromptCursor:
    """Yields ``(epoch, row)`` in a reproducible order.

    Args:
        num_rows: rows of the dataset, at least 1.
        seed: seed of the order.
        shuffle: a new permutation each epoch; else rows in their stored order.
        fingerprint: identity of the dataset, compared when a state is loaded.

    Example::

        cursor = PromptCursor(len(data), seed=0, shuffle=True, fingerprint=data.fingerprint)
        prompts = [data.prompt(epoch, row) for epoch, row in cursor.take(16)]
    """

    def __init__(
        self, num_rows: int, *, seed: int = 0, shuffle: bool = True, fingerprint: str = ""
    ) -> None:
        assert num_rows > 0, num_rows
        self._identity: dict[str, Any] = {
            "fingerprint": fingerprint,
            "num_rows": num_rows,
            "seed": seed,
            "shuffle": shuffle,
        }
        self._epoch = 0
        self._offset = 0
        self._order = self._permutation(0)

    def take(self, n: int) -> list[tuple[int, int]]:
        """Return the next ``n`` of the sequence, which may extend into later epochs."""
        taken = []
        for _ in range(n):
            if self._offset == len(self._order):
                self._epoch, self._offset = self._epoch + 1, 0
                self._order = self._permutation(self._epoch)
            taken.append((self._epoch, self._order[self._offset]))
            self._offset += 1
        return taken

    @property
    def passes(self) -> float:
        """How often the rows were taken so far; 2 of 8 in the second epoch are ``1.25``."""
        return self._epoch + self._offset / len(self._order)

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the identity of the dataset, as JSON data."""
        return {"epoch": self._epoch, "offset": self._offset, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the prompts that were taken when ``state`` was saved.

        Raises:
            UserError: the state belongs to another dataset, seed or order.
        """
        for key, ours in self._identity.items():
            if state[key] != ours:
                raise UserError(_MISMATCH[key].format(theirs=state[key], ours=ours) + _WAY_OUT)
        assert 0 <= state["offset"] <= len(self._order), state
        self._epoch, self._offset = state["epoch"], state["offset"]
        self._order = self._permutation(self._epoch)

    def _permutation(self, epoch: int) -> list[int]:
        rows = self._identity["num_rows"]
        if not self._identity["shuffle"]:
            return list(range(rows))
        order: list[int] = shuffled(rows, key=f"{self._identity['seed']}:{epoch}").tolist()
        return order


_WAY_OUT = "; resume with the setting and data of the first run, or start anew with resume=never"
_MISMATCH = {
    "fingerprint": "data.train has changed since the checkpoint: its content or the chat "
    "template gives fingerprint {ours}, the checkpoint has {theirs}",
    "num_rows": "data.train has {ours} rows, the checkpoint was made with {theirs}",
    "seed": "seed is {ours}, the checkpoint was made with {theirs}",
    "shuffle": "data.shuffle is {ours}, the checkpoint was made with {theirs}",
}
