"""A user's file -> the function in it.

Owns the import of the file and what is said when it fails. Runs in a sandbox worker, never
in the driver, so the file may do what it likes. Invariant: a file is imported once, however
many of its functions are used.
"""

import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rlpost.errors import UserError
from rlpost.verifiers.contracts.signature import Signature
from rlpost.verifiers.kinds.function_path import FunctionPath
from rlpost.verifiers.kinds.stand_ins import framework_of, stand_ins


def load(path: FunctionPath) -> Callable[..., Any]:
    """Return the function, method or callable object that ``path`` names.

    A class is created without arguments and its instance called.

    Raises:
        UserError: there is no such file or function, it cannot be called, or the file imports
            what is not installed.
    """
    if not path.file.is_file():
        raise UserError(
            f"path: there is no file {str(path.file)!r} (looked in {Path.cwd()}); give the path "
            "of a Python file, e.g. path=/data/rewards.py:my_reward"
        )
    owner: Any = None
    target: Any = _module(path.file.resolve())
    for part in path.name.split("."):
        owner = target
        if not hasattr(owner, part):
            raise UserError(
                f"path: {path.file} has no function {path.name!r}; it has {_offers(owner)}"
            )
        target = getattr(owner, part)
    if inspect.isclass(target):
        return _instance(target, path)
    if inspect.isclass(owner) and inspect.isfunction(inspect.getattr_static(owner, part)):
        raise UserError(
            f"path: {path} is a method of a class and needs an instance; make one in the file, "
            f"scorer = {owner.__name__}(), and name scorer.{part}"
        )
    if not callable(target):
        raise UserError(
            f"path: {path.name!r} in {path.file} is not callable but {type(target).__name__}; name "
            "a function f(prompts, completions, **kwargs) -> list[float | None]"
        )
    function: Callable[..., Any] = target
    return function


def _offers(owner: Any) -> list[str]:
    members = getattr(owner, "__dict__", {}).items()
    return sorted(n for n, value in members if inspect.isroutine(value) and not n.startswith("_"))


def _instance(cls: type, path: FunctionPath) -> Callable[..., Any]:
    needs = Signature.of(cls, path=str(path)).required
    if needs or not any("__call__" in vars(base) for base in cls.__mro__):
        raise UserError(
            f"path: {path} is a class; name an instance that can be called: write "
            f"my_reward = {cls.__name__}(...) in the file, and define __call__"
        )
    instance: Callable[..., Any] = cls()
    return instance


@functools.cache
def _module(file: Path) -> ModuleType:
    if file.suffix != ".py":
        raise UserError(f"path: {file} is not a Python file; its name must end in .py")
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # as `python FILE.py` does: siblings import
    try:
        try:
            return _run(file)
        except ModuleNotFoundError as error:
            framework = framework_of(error)
            if framework is None:
                raise
            with stand_ins(framework):
                return _run(file)
    except ImportError as error:
        raise UserError(f"path: {_missing_import(error, file)}") from error
    except SyntaxError as error:
        name = Path(error.filename or file).name
        place = name if error.lineno is None else f"{name}:{error.lineno}"
        raise UserError(f"path: {type(error).__name__}: {error.msg} ({place})") from error


def _run(file: Path) -> ModuleType:
    name = f"verifier_function_{file.stem}_{abs(hash(file)):x}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _missing_import(error: ImportError, file: Path) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    theirs = [f for f in frames if Path(f.filename).parent == file.parent] or frames
    line = f"{Path(theirs[-1].filename).name}:{theirs[-1].lineno}"
    message = str(error).removesuffix(" (unknown location)")
    framework = framework_of(error)
    if framework is not None:
        way_out = (
            f"{framework} is not installed in this environment: remove the import and what uses "
            f"it, for rlpost calls the function itself, or install {framework} here"
        )
    elif "relative import" in message:
        way_out = "write import NAME: files beside this one are found so"
    else:
        way_out = "install the package that has it in this environment, or remove the import"
    return f"{type(error).__name__}: {message} ({line}); {way_out}"
