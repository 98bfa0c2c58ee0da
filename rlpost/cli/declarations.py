"""Reads declarations without torch and numpy, which take longer to import than all the rest.

Owns a stand-in for both. The modules that declare options also hold the arithmetic that the
options configure; while they are imported, they need nothing of torch but names such as
``Tensor``. Invariant: what was imported with the stand-in is forgotten afterwards, so nothing can
compute with it.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_LEFT_OUT = ("numpy", "torch")


class _StandIn(ModuleType):
    """A module, and everything in it: each name leads to another one."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **options: Any) -> Any:
        return args[0] if args and callable(args[0]) else self  # a decorator, or a call

    def __getitem__(self, item: Any) -> Any:  # the type of an array's elements
        return self

    def __or__(self, other: Any) -> Any:
        return other

    __ror__ = __or__

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        ours = fullname.partition(".")[0] in _LEFT_OUT
        return ModuleSpec(fullname, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is executed."""


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Import what declares options without torch and numpy, unless one of them is there already."""
    if any(name in sys.modules for name in _LEFT_OUT):
        yield
        return
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in (*_LEFT_OUT, "rlpost"):
                del sys.modules[name]
