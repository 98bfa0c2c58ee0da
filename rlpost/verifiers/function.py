"""Verifier ``function``: a user's Python function with the TRL reward contract.

Owns loading ``FILE.py:function``, calling it for one response and checking what it returns.
Refuses to own isolation: this file runs in a sandbox worker, never in the driver, so the
user's module may do what it likes at import. Invariant: the function sees lists of length
one, so that one response's failure stays with that response.

Contract (TRL): ``f(prompts, completions, completion_ids, **columns) -> list[float | None]``,
sync or async, called with keywords only. A function without ``**kwargs`` gets the names it
lists. Completions are strings, or ``[{"role": "assistant", "content": ...}]`` when prompts
are messages.
"""

import asyncio
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from rlpost.errors import DataError, UserError
from rlpost.verifiers.base import Judge, Sample, Score, VerifierConfig, verifiers

_ALWAYS = ("prompts", "completions", "completion_ids")


@dataclass(kw_only=True)
class FunctionConfig(VerifierConfig):
    """The reward that ``path`` computes.

    Example: ``FunctionConfig(path="rewards.py:length_penalty")``
    """

    kind: str = "function"
    path: str = ""  # FILE.py:function

    def resolved(self) -> "FunctionConfig":
        file, name = _split(self.path)
        return replace(self, path=f"{file.resolve()}:{name}")


@verifiers.register("function", FunctionConfig)
def function(cfg: FunctionConfig) -> Judge:
    """Load the function and build the judge.

    Raises:
        UserError: the file, the function or its signature does not fit the contract.
    """
    target = _load(cfg.path)
    accepts = _accepted_names(target, path=cfg.path)
    runner = asyncio.Runner()  # one loop for all calls: the user's sessions may be bound to it

    def judge(sample: Sample) -> Score:
        arguments = _arguments(sample)
        missing = accepts.required - arguments.keys()
        if missing:
            at = f"{sample.address}: " if sample.address else ""
            raise DataError(
                f"{at}{cfg.path} needs the columns {sorted(missing)}, the row has "
                f"{sorted(sample.columns)}"
            )
        if not accepts.variadic:
            arguments = {k: v for k, v in arguments.items() if k in accepts.named}
        returned = target(**arguments)
        if inspect.isawaitable(returned):
            returned = runner.run(_awaited(returned))
        return _only_reward(returned)

    return judge


def _arguments(sample: Sample) -> dict[str, Any]:
    columns = {name: [value] for name, value in sample.columns.items()}
    return columns | {
        "prompts": [sample.prompt],
        "completions": [sample.completion],
        "completion_ids": [list(sample.completion_ids)],
    }


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _only_reward(returned: Any) -> Score:
    if hasattr(returned, "tolist"):  # numpy array or torch tensor
        returned = returned.tolist()
    if not isinstance(returned, list | tuple):
        raise TypeError(
            f"the function must return a list of rewards, got {type(returned).__name__}"
        )
    if len(returned) != 1:
        raise ValueError(
            f"the function must return one reward per completion: got {len(returned)} for 1"
        )
    reward: Score = returned[0]
    return reward


def _split(path: str) -> tuple[Path, str]:
    file, colon, name = path.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise UserError(f"path must be FILE.py:function, got {path!r}; e.g. rewards.py:my_reward")
    return Path(file).expanduser(), name


def _load(path: str) -> Callable[..., Any]:
    file, name = _split(path)
    if not file.is_file():
        raise UserError(
            f"path: there is no file {str(file)!r} (looked in {Path.cwd()}); give the path of a "
            "Python file, e.g. path=/data/rewards.py:my_reward"
        )
    module = _module(file.resolve())
    if not hasattr(module, name):
        offers = sorted(
            key
            for key, value in vars(module).items()
            if inspect.isroutine(value) and not key.startswith("_")
        )
        raise UserError(f"path: {file} has no function {name!r}; it has {offers}")
    target: Callable[..., Any] = getattr(module, name)
    if not callable(target):
        raise UserError(
            f"path: {name!r} in {file} is not callable but {type(target).__name__}; name a "
            "function f(prompts, completions, **kwargs) -> list[float | None]"
        )
    return target


@functools.cache
def _module(file: Path) -> ModuleType:
    name = f"verifier_function_{file.stem}_{abs(hash(file)):x}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"path: {file} is not a Python file; its name must end in .py")
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # as `python FILE.py` does: siblings import
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, kw_only=True)
class _Names:
    """Keyword names a function takes; ``variadic`` when it has ``**kwargs``."""

    named: frozenset[str]
    required: frozenset[str]
    variadic: bool


def _accepted_names(target: Callable[..., Any], *, path: str) -> _Names:
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError as error:
        raise UserError(f"path: {path} has no readable signature; wrap it in a def") from error
    positional = [
        p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty
    ]
    if positional:
        raise UserError(
            f"path: {path} takes {positional} by position only, but the trainer calls it with "
            "keywords; remove the '/' from its signature"
        )
    keyword = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = _Names(
        named=frozenset(p.name for p in keyword),
        required=frozenset(p.name for p in keyword if p.default is p.empty),
        variadic=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )
    if not names.variadic and not names.named.intersection(_ALWAYS):
        raise UserError(
            f"path: {path} accepts none of {list(_ALWAYS)}; write it as "
            "f(prompts, completions, **kwargs) -> list[float | None]"
        )
    return names
