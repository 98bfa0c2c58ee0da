"""What a user's function accepts, read once before it is called."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlpost.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The parameters of a function.

    Example: ``Signature.of(lambda completions, *, answer, **columns: [], path="a.py:f")`` has
    the keywords ``completions`` and ``answer``, requires both, and is variadic.
    """

    text: str  # as written, for messages
    keywords: frozenset[str]  # can be given by name
    positional: tuple[str, ...]  # can be given without their name, in this order
    positional_only: tuple[str, ...]
    required: frozenset[str]  # have no default value
    variadic: bool  # takes any other keyword
    max_positional: float  # how many arguments can be given without their name

    @classmethod
    def of(cls, function: Callable[..., Any], *, path: str) -> "Signature":
        """Read the signature; a decorator made with ``functools.wraps`` shows the function's own.

        Raises:
            UserError: it cannot be read.
        """
        try:
            signature = inspect.signature(function)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"path: {path} has no signature that can be read ({error}); wrap it in a def"
            ) from error
        parameters = signature.parameters.values()
        ordered = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        return cls(
            text=str(signature),
            keywords=frozenset(
                p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            ),
            positional=tuple(p.name for p in ordered),
            positional_only=tuple(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY),
            required=frozenset(
                p.name
                for p in parameters
                if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            ),
            variadic=any(p.kind is p.VAR_KEYWORD for p in parameters),
            max_positional=float("inf") if any_number else len(ordered),
        )

    def accepted(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of ``arguments`` that can be given by name."""
        return {k: v for k, v in arguments.items() if self.variadic or k in self.keywords}

    def require_keywords(self, *, path: str) -> None:
        """Raises UserError: a parameter without default value cannot be given by name."""
        by_position = sorted(self.required.intersection(self.positional_only))
        if by_position:
            raise UserError(
                f"path: {path} takes {by_position} by position only, but it is called with "
                "keywords; remove the '/' from its signature"
            )
