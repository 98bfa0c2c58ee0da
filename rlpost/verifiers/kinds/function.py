"""Verifier ``function``: rewards that a user's own Python functions compute.

Owns the settings and the assembly: the file (function_file.py), the convention that the
function follows (contracts/) and, for coroutines, the event loop. Refuses to own isolation:
what ``function`` builds runs in a sandbox worker, never in the driver. Invariant: each
function is a reward of its own, with its own verdicts, metrics and weight.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from rlpost.bounds import number, option
from rlpost.errors import UserError
from rlpost.verifiers.base import (
    NO_SETTING,
    Declaration,
    DeclaredJudge,
    Judge,
    VerifierConfig,
    verifiers,
)
from rlpost.verifiers.contracts.adapter import Contract, UserFunction
from rlpost.verifiers.contracts.answer import first_answer
from rlpost.verifiers.contracts.choice import adapter_of
from rlpost.verifiers.contracts.signature import Signature
from rlpost.verifiers.kinds.function_file import load
from rlpost.verifiers.kinds.function_path import FunctionPath, names_of, parse_all


class Call(Enum):
    """What a function is given at once; ``auto``: what its contract expects."""

    auto = "auto"
    group = "group"  # all responses to a prompt
    sample = "sample"  # one response


@dataclass(kw_only=True)
class FunctionConfig(VerifierConfig):
    """The rewards that the functions in ``path`` compute.

    Example: ``FunctionConfig(path=["rewards.py:correct", "rewards.py:short"], weights=[1, 0.2])``
    """

    kind: str = "function"
    path: Any = option("", help="FILE.py:function, or a list of these")
    weights: list[float] | None = number(
        None,
        at_least=-1e6,
        at_most=1e6,
        help="one factor per function, times verifier.weight; null: 1 for each",
    )
    contract: Contract = option(
        Contract.auto, help="whose convention they follow; auto: the names of their parameters tell"
    )
    call: Call = option(
        Call.auto, help="what a function is given at once; auto: what its contract expects"
    )
    answer_column: str | None = option(
        None, help="column of verl's ground_truth and OpenRLHF's labels; null: found"
    )
    # Known once ``check`` built the function; no settings.
    needed_columns: list[str] = field(default_factory=list, metadata=NO_SETTING)
    needed_answers: list[str] = field(default_factory=list, metadata=NO_SETTING)

    def expanded(self) -> Mapping[str, VerifierConfig]:
        paths = parse_all(self.path)
        weights = self._checked_weights(paths)
        return {
            name: replace(self, path=str(path), weight=weight, weights=None)
            for name, path, weight in zip(names_of(paths), paths, weights, strict=True)
        }

    def resolved(self) -> "FunctionConfig":
        return replace(self, path=str(FunctionPath.parse(self.path).absolute()))

    @property
    def judges_groups(self) -> bool:
        return self.call is Call.group

    def settled(self, declaration: Declaration) -> "FunctionConfig":
        call = Call.group if declaration.groups else Call.sample
        return replace(
            self,
            call=call if self.call is Call.auto else self.call,
            needed_columns=list(declaration.columns),
            needed_answers=list(declaration.answers),
        )

    def refusal(self, columns: Mapping[str, Any]) -> str | None:
        missing = [name for name in self.needed_columns if name not in columns]
        there = f"the row has {sorted(map(str, columns))}"
        if missing:
            return f"{self.path} takes the columns {missing}, {there}"
        if self.needed_answers and first_answer(columns, self.needed_answers) is None:
            return (
                f"{self.path} takes the answer, which is looked for in {self.needed_answers}, "
                f"{there}; name its column with verifier.answer_column, or set that to '' if the "
                "function reads no answer"
            )
        return None

    def required_columns(self) -> tuple[str, ...]:
        return (self.answer_column,) if self.answer_column else ()

    def _checked_weights(self, paths: list[FunctionPath]) -> list[float]:
        if self.weights is None:
            return [self.weight] * len(paths)
        if len(self.weights) != len(paths):
            raise UserError(
                f"weights must have one number for each function of verifier.path, {len(paths)} "
                f"here, got {len(self.weights)}: {self.weights}"
            )
        return [self.weight * weight for weight in self.weights]


@verifiers.register("function", FunctionConfig)
def function(cfg: FunctionConfig) -> Judge:
    """Load the one function of ``cfg.path`` and build its judge.

    Raises:
        UserError: the file, the function or its parameters do not fit.
    """
    path = FunctionPath.parse(cfg.path)
    target = load(path)
    signature = Signature.of(target, path=str(path))
    adapter = adapter_of(signature, contract=cfg.contract, path=str(path))
    user_function = UserFunction(
        path=str(path),
        call=_waiting(target),
        signature=signature,
        answer_column=cfg.answer_column,
    )
    declaration = adapter.declare(user_function)
    if cfg.call is Call.group and not declaration.groups:
        raise UserError(
            f"call=group does not fit {path}, which {adapter.title} calls with one response at a "
            "time; leave verifier.call out"
        )
    if cfg.call is Call.sample:
        declaration = replace(declaration, groups=False)
    return DeclaredJudge(together=adapter.bind(user_function), declaration=declaration)


def _waiting(target: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs ``target`` and, when it is a coroutine, waits for it."""
    runner = asyncio.Runner()  # one loop for all calls: the user's sessions may be bound to it

    def call(*args: Any, **kwargs: Any) -> Any:
        returned = target(*args, **kwargs)
        return runner.run(_awaited(returned)) if inspect.isawaitable(returned) else returned

    return call


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
