"""Harmless names of other frameworks, for reward files that import them.

Owns the few names that do nothing outside their framework: a tracing or registering
decorator, a logger, a type. Refuses to imitate anything that computes: a file that imports
such a name is refused (function_file.py). Invariant: they are there only while the user's
file is imported, and only when it cannot be imported without, so that code that asks
whether a framework is installed gets the true answer.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def _unchanged(target: Any) -> Any:
    return target


def _unchanged_by(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    return _unchanged


_NAMES: dict[str, dict[str, Any]] = {
    "verl.utils.rollout_trace": {"rollout_trace_op": _unchanged},
    "verl.workers.reward_manager": {"register": _unchanged_by},
    "openrlhf.utils.logging_utils": {"init_logger": logging.getLogger},
    "trl.trainer.grpo_trainer": {"RewardFunc": Callable[..., list[float | None]]},
}
_FRAMEWORKS = {name.partition(".")[0] for name in _NAMES}


def framework_of(error: ImportError) -> str | None:
    """Return the framework whose absence made an import fail; None: something else did."""
    top = (error.name or "").partition(".")[0]
    return top if top in _FRAMEWORKS and not _is_installed(top) else None


@contextmanager
def stand_ins(framework: str) -> Iterator[None]:
    """Make the harmless names of one framework importable."""
    modules: dict[str, ModuleType] = {}
    for dotted, names in _NAMES.items():
        parts = dotted.split(".")
        if parts[0] != framework:
            continue
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            module = modules.setdefault(name, ModuleType(name))
            module.__path__ = []  # a package: its other modules are looked for and not found
            if length > 1:
                setattr(modules[".".join(parts[: length - 1])], parts[length - 1], module)
        vars(modules[dotted]).update(names)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def _is_installed(framework: str) -> bool:
    module = sys.modules.get(framework)
    if module is not None:
        return getattr(module, "__spec__", None) is not None
    return importlib.util.find_spec(framework) is not None
