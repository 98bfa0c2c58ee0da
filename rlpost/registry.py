"""Registries of variants: from a name to a callable and its config dataclass.

Owns look-up and its error messages. Refuses to own hydra: ``config/store.py`` reads the
registries. Invariant: a name has one entry; unknown and duplicate names are errors.
"""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rlpost.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One registered variant: what to call and the dataclass that configures it."""

    name: str
    target: Callable[..., Any]
    config: type


class Registry:
    """Registered variants of one kind (``loss``, ``verifier``, ...).

    Example::

        losses = Registry("loss")

        @losses.register("clip", ClipConfig)
        def clip(batch, cfg): ...
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(
        self, name: str, config: type
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that registers its target under ``name``.

        Raises:
            ValueError: ``name`` is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is already registered")

        def decorate(target: Callable[..., Any]) -> Callable[..., Any]:
            self._entries[name] = Entry(name=name, target=target, config=config)
            return target

        return decorate

    def get(self, name: str) -> Entry:
        """Look ``name`` up.

        Raises:
            UserError: unknown name; lists the known ones and the closest.
        """
        if name not in self._entries:
            close = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(
                f"{self.kind} must be one of {sorted(self._entries)}, got {name!r}{hint}"
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())
