"""Gate expressions, such as ``delta(general) >= -0.02``: text -> a small tree.

Owns the grammar, which is closed: one comparison of sums, differences and products of numbers,
``score(suite)``, ``score(suite, stage)``, ``delta(suite)`` and the numbers in ``MEASURED``. Refuses
to own what they are worth (decide.py). Invariant: a text is parsed and walked, never evaluated by
Python, so nothing in a file can run code, take long or use much memory.
"""

import ast
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from rlpost.errors import UserError

# Numbers that a stage reports -> what they are.
MEASURED: Mapping[str, str] = {
    "rows": "rows of the data set that the stage made",
    "leaked_into_heldout": "rows of it whose prompt is one of a suite's",
    "kl_to_start": "KL divergence to the reference in the stage's last step, nats per token",
}
FUNCTIONS = ("score", "delta")
MAX_CHARACTERS = 500
MAX_NUMBER = 1e12
_COMPARISONS = {ast.GtE: ">=", ast.Gt: ">", ast.LtE: "<=", ast.Lt: "<", ast.Eq: "=="}
_OPERATIONS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
_WAY_OUT = (
    "a gate is one comparison (>=, >, <=, <, ==) of numbers, score(SUITE), score(SUITE, STAGE), "
    f"delta(SUITE) and {', '.join(MEASURED)}, with + - * and parentheses"
)


@dataclass(frozen=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True)
class Score:
    """The score of a suite; ``stage`` is whose, None: that of the stage with the gate."""

    suite: str
    stage: str | None = None


@dataclass(frozen=True)
class Delta:
    """The score of the stage with the gate, minus that of what it starts from."""

    suite: str


@dataclass(frozen=True)
class Measured:
    """A number that the stage reports; a name in ``MEASURED``."""

    name: str


@dataclass(frozen=True)
class Operation:
    """``left operator right`` with +, - or *."""

    operator: str
    left: "Term"
    right: "Term"


Term = Number | Score | Delta | Measured | Operation


@dataclass(frozen=True)
class Gate:
    """One comparison. ``text`` is what was written.

    Example: ``parse_gate("delta(general) >= -0.02", field="stages[0].gate")``
    """

    text: str
    left: Term
    comparison: str
    right: Term

    def leaves(self) -> Iterator[Number | Score | Delta | Measured]:
        """Yield everything that the gate compares."""
        for side in (self.left, self.right):
            yield from _leaves(side)

    def suites(self) -> set[str]:
        """Return the suites whose scores decide."""
        return {each.suite for each in self.leaves() if isinstance(each, Score | Delta)}


def parse_gate(text: str, *, field: str) -> Gate:
    """Read one expression.

    Args:
        text: as in the file.
        field: where it stands, for errors.

    Raises:
        UserError: it is not in the grammar; says what is.
    """

    def refuse(why: str) -> NoReturn:
        raise UserError(f"{field}: {text!a:.100}: {why}; {_WAY_OUT}")

    if len(text) > MAX_CHARACTERS:
        refuse(f"{len(text)} characters are too many, {MAX_CHARACTERS} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        refuse("this is no expression")
    if not isinstance(tree, ast.Compare):
        refuse("there is no comparison")
    if len(tree.ops) != 1:
        refuse("a chain of comparisons is not supported, write two gates")
    comparison = _COMPARISONS.get(type(tree.ops[0]))
    if comparison is None:
        refuse("this comparison is not supported")
    reader = _Reader(refuse)
    gate = Gate(
        text=" ".join(text.split()),
        left=reader.term(tree.left),
        comparison=comparison,
        right=reader.term(tree.comparators[0]),
    )
    if all(isinstance(each, Number) for each in gate.leaves()):
        refuse("it compares constants alone, so it says nothing of the stage")
    return gate


class _Reader:
    """Walks Python's tree and refuses what the grammar does not have."""

    def __init__(self, refuse: Any) -> None:
        self._refuse = refuse

    def term(self, node: ast.AST) -> Term:
        if isinstance(node, ast.Constant):
            return self._number(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign = -1.0 if isinstance(node.op, ast.USub) else 1.0
            inner = self.term(node.operand)
            if isinstance(inner, Number):
                return Number(sign * inner.value)
            return Operation("*", Number(sign), inner)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            operator = _OPERATIONS[type(node.op)]
            return Operation(operator, self.term(node.left), self.term(node.right))
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Name):
            if node.id not in MEASURED:
                self._refuse(f"{node.id!a:.60} is no number that a stage reports{_near(node.id)}")
            return Measured(node.id)
        self._refuse(f"{_called(node)} is not supported")
        raise AssertionError("unreachable")

    def _number(self, value: Any) -> Number:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not -MAX_NUMBER <= value <= MAX_NUMBER or math.isnan(value):
            self._refuse(f"a number must be plain and within ±{MAX_NUMBER:g}")
        return Number(float(value))

    def _call(self, node: ast.Call) -> Score | Delta:
        function = node.func.id if isinstance(node.func, ast.Name) else ""
        if function not in FUNCTIONS:
            self._refuse(f"only {' and '.join(FUNCTIONS)} can be called{_near(function)}")
        names = [each.id if isinstance(each, ast.Name) else None for each in node.args]
        most = 2 if function == "score" else 1
        if node.keywords or not 1 <= len(names) <= most or None in names:
            takes = "a suite, and a stage if you like" if most == 2 else "one suite"
            self._refuse(f"{function} takes {takes}, by plain names")
        first, *rest = [str(each) for each in names]
        return Score(first, *rest) if function == "score" else Delta(first)


def _near(name: str) -> str:
    close = difflib.get_close_matches(name, [*MEASURED, *FUNCTIONS], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _called(node: ast.AST) -> str:
    names = {ast.Attribute: "an attribute (a dot)", ast.Subscript: "[]", ast.Pow: "a power"}
    inner = getattr(node, "op", node)
    return names.get(type(inner)) or names.get(type(node)) or type(inner).__name__.lower()


def _leaves(term: Term) -> Iterator[Number | Score | Delta | Measured]:
    if isinstance(term, Operation):
        yield from _leaves(term.left)
        yield from _leaves(term.right)
    else:
        yield term
