"""The value that each option has where nobody gives it.

Owns the walk over a checked configuration. Refuses to own the values (the dataclasses). Invariant:
a choice has none: neither which variant was chosen, its ``kind``, nor an entry that was added by
name exists before somebody chooses it; their other options have the defaults of what was chosen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

_KIND = "kind"


def default_values(config: Any) -> dict[str, Any]:
    """Return path -> default of every option below ``config``, as ``config.yaml`` has values.

    Example: ``default_values(RLConfig(...))["trainer.lr"] == 1e-6``
    """
    return dict(_defaults(config, None, ""))


def _defaults(config: Any, default: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield path and default of the options of ``config``, whose own default is ``default``."""
    for declared in fields(config):
        value, place = getattr(config, declared.name), f"{path}{declared.name}"
        known = _default_of(declared) if default is None else getattr(default, declared.name)
        if is_dataclass(value):
            same = type(known) is type(value)
            yield from _defaults(value, known if same else None, f"{place}.")
        elif isinstance(value, Mapping) and any(map(is_dataclass, value.values())):
            for name, each in value.items():
                yield from _defaults(each, None, f"{place}.{name}.")
        elif known is not MISSING and declared.name != _KIND:
            yield place, known.name if isinstance(known, Enum) else known


def _default_of(declared: Field[Any]) -> Any:
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return declared.default
