"""What is known of one framework's reward functions, and what calling one needs."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rlpost.verifiers.base import Declaration, GroupCall
from rlpost.verifiers.contracts.signature import Signature


class Contract(Enum):
    """Whose convention a reward function follows; ``auto``: its parameters' names tell."""

    auto = "auto"
    trl = "trl"
    verl = "verl"
    openrlhf = "openrlhf"


@dataclass(frozen=True, kw_only=True)
class UserFunction:
    """A loaded function and what the configuration says about it."""

    path: str  # FILE.py:function, for messages
    call: Callable[..., Any]  # waits for a coroutine's result
    signature: Signature
    answer_column: str | None = None  # None: the usual names; "": the function needs no answer


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One framework's convention.

    ``bind`` raises ``UserError`` when the function's parameters do not fit.
    """

    title: str
    spelling: str  # how such a function is written, for messages
    marks: frozenset[str]  # parameter names that no other framework uses
    declare: Callable[[UserFunction], Declaration]
    bind: Callable[[UserFunction], GroupCall]
